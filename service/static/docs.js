// What Swagger UI shows as JSON goes out as NDJSON where that was chosen: one row on each line.
function asLines(request) {
  if (request.headers?.["Content-Type"] === "application/x-ndjson") {
    try {
      const rows = JSON.parse(request.body);
      request.body = [rows].flat().map((row) => JSON.stringify(row) + "\n").join("");
    } catch {
      // It is NDJSON already.
    }
  }
  return request;
}

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  presets: [SwaggerUIBundle.presets.apis],
  requestInterceptor: asLines,
  validatorUrl: null, // it would ask a server elsewhere whether the description is valid
});
