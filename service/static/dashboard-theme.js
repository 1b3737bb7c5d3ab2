// The theme that was chosen here before. It is set before anything is drawn, so that the page does not flash in another.
try {
  const theme = localStorage.getItem("headrace-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // There is no storage for this page; it has the theme of the system then.
}
