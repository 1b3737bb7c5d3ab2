// Calls the JavaScript clients for javascript.py: one call on each line of stdin, what came of it on a line of stdout.
// A call is {client, url, chain}; a chain is [[method, argument, ...], ...], from the client on. {} hangs up.

import { createInterface } from 'node:readline'
import { PostgrestClient } from '@supabase/postgrest-js'
import { createClient } from '@supabase/supabase-js'

// supabase-js wants one for subscriptions, which nobody makes here. Node has its own since version 22.
const transport = globalThis.WebSocket ?? class NoWebSocket {}

const MAKE = {
  'postgrest-js': (url) => new PostgrestClient(`${url}/rest/v1`),
  'supabase-js': (url) => createClient(url, 'anon-key', { realtime: { transport } }),
}
const clients = new Map()

// Numbers that a JSON number cannot be trusted with come as {"$bigint": "..."}.
const revived = (_, value) => (value?.$bigint === undefined ? value : BigInt(value.$bigint))

async function called({ client: name, url, chain }) {
  const key = `${name} ${url}`
  if (!clients.has(key)) clients.set(key, MAKE[name](url))
  try {
    return await chain.reduce((object, [method, ...args]) => object[method](...args), clients.get(key))
  } catch (thrown) {
    return { thrown }
  }
}

// Node keeps connections for later calls, and a service that stops would wait half a second for those. This is where
// Node has them; before the first call there are none.
const POOL = Symbol.for('undici.globalDispatcher.1')

async function hungUp() {
  const pool = globalThis[POOL]
  if (pool === undefined) return {}
  globalThis[POOL] = new pool.constructor()
  await pool.close()
  return {}
}

for await (const line of createInterface({ input: process.stdin })) {
  const call = JSON.parse(line, revived)
  process.stdout.write(`${JSON.stringify(await (call.client ? called(call) : hungUp()))}\n`)
}
process.exit()
