// Runs tests one after the other and writes down how each ended, as outcomes.py does.
import { appendFileSync, existsSync, readFileSync } from 'node:fs'

const file = process.env.OUTCOMES
const seconds = Number(process.env.SECONDS_PER_TEST)
const tests = []

export function test(name, run) {
  tests.push({ name, run })
}

export async function run(expression = process.argv[2]) {
  const done = existsSync(file) ? readFileSync(file, 'utf8').split('\n').filter(Boolean).map(line => JSON.parse(line).test) : []
  for (const { name, run } of tests) {
    if (done.includes(name) || (expression && !name.includes(expression))) continue
    // Stays if nothing else is written.
    write(name, 'hung', 'took the process down, or longer than the time limit')
    // The next start goes on behind this test.
    const limit = setTimeout(() => process.exit(1), seconds * 1000)
    const cleanups = []
    let outcome = ['passed', '']
    try {
      await run(cleanup => cleanups.unshift(cleanup))
    } catch (error) {
      outcome = ['failed', `${error?.code ?? error?.name}: ${error?.message}`.split('\n')[0]]
    }
    for (const cleanup of cleanups) await Promise.resolve().then(cleanup).catch(() => {})
    clearTimeout(limit)
    write(name, ...outcome)
  }
  process.exit(0)
}

function write(test, outcome, error) {
  appendFileSync(file, JSON.stringify({ test, outcome, error }) + '\n')
}

export const sleep = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds))

export async function until(question, milliseconds = 5000) {
  const deadline = Date.now() + milliseconds
  while (!(await question())) {
    if (Date.now() > deadline) throw new Error('not so in time')
    await sleep(20)
  }
}

let tables = 0

// A name that no other test has.
export const fresh = () => `t${process.pid}_${++tables}`
