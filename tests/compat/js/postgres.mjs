// What postgres.js' documentation shows, and what its users do. It names its statements, keeps them, and sends queries
// without waiting for the answers before.
import assert from 'node:assert/strict'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import postgres from 'postgres'
import { fresh, run, sleep, test, until } from './harness.mjs'

function client(after, options = {}) {
  const sql = postgres({ onnotice: () => {}, ...options })
  after(() => sql.end({ timeout: 1 }))
  return sql
}

async function table(sql, columns) {
  const name = fresh()
  await sql.unsafe(`CREATE TABLE ${name} (${columns})`)
  return name
}

const rejects = (promise, code) => assert.rejects(Promise.resolve(promise), error => assert.equal(error.code, code) ?? true)
const plain = rows => rows.map(row => ({ ...row }))

test('connect: environment', async after => {
  const sql = client(after)
  assert.deepEqual(plain(await sql`SELECT ${'x'}::text AS a`), [{ a: 'x' }])
})

test('connect: connection parameters', async after => {
  const sql = client(after, { connection: { application_name: 'named', search_path: 'pg_catalog', statement_timeout: 4321 } })
  assert.equal((await sql`SHOW application_name`)[0].application_name, 'named')
  assert.equal((await sql`SHOW search_path`)[0].search_path, 'pg_catalog')
  assert.equal((await sql`SHOW statement_timeout`)[0].statement_timeout, '4321ms')
})

test('connect: wrong password', async after => {
  await rejects(client(after, { password: 'wrong' })`SELECT 1`, '28P01')
})

test('connect: unknown database', async after => {
  await rejects(client(after, { database: 'nowhere' })`SELECT 1`, '3D000')
})

test('connect: target_session_attrs', async after => {
  const sql = client(after, { target_session_attrs: 'read-write' })
  assert.equal((await sql`SELECT 1 AS a`)[0].a, 1)
})

test('connect: max_lifetime and idle_timeout', async after => {
  const sql = client(after, { max: 3, max_lifetime: 1, idle_timeout: 1 })
  for (let n = 0; n < 12; n++) {
    const rows = await Promise.all([sql`SELECT ${n}::int AS a`, sql`SELECT ${n}::int AS a`])
    rows.forEach(([{ a }]) => assert.equal(a, n))
    await sleep(120)
  }
})

test('query: parameters are typed by the server', async after => {
  const sql = client(after)
  assert.deepEqual(plain(await sql`SELECT ${1}::int AS a, ${true}::bool AS b, ${null}::text AS c`), [{ a: 1, b: true, c: null }])
})

test('query: dynamic inserts, columns, updates and IN', async after => {
  const sql = client(after)
  const name = await table(sql, 'name text, age int')
  await sql`INSERT INTO ${sql(name)} ${sql([{ name: 'Murray', age: 68 }, { name: 'Walter', age: 80 }], 'name', 'age')}`
  await sql`UPDATE ${sql(name)} SET ${sql({ age: 69 }, 'age')} WHERE name = ${'Murray'}`
  const rows = await sql`SELECT ${sql(['name', 'age'])} FROM ${sql(name)} WHERE age IN ${sql([69, 80, 75])} ORDER BY 1`
  assert.deepEqual(plain(rows), [{ name: 'Murray', age: 69 }, { name: 'Walter', age: 80 }])
})

test('query: multiple updates by VALUES', async after => {
  const sql = client(after)
  const name = await table(sql, 'id int, word text')
  await sql`INSERT INTO ${sql(name)} VALUES (1, 'a'), (2, 'b')`
  const users = [[1, 'John'], [2, 'Jane']]
  await sql`UPDATE ${sql(name)} SET word = data.word FROM (VALUES ${sql(users)}) AS data (id, word) WHERE ${sql(name)}.id = (data.id)::int`
  assert.deepEqual(plain(await sql`SELECT * FROM ${sql(name)} ORDER BY id`), [{ id: 1, word: 'John' }, { id: 2, word: 'Jane' }])
})

test('query: partial queries', async after => {
  const sql = client(after)
  const older = x => sql`AND n > ${x}`
  const read = filter => sql`SELECT n FROM generate_series(1, 5) n WHERE true ${filter ? older(3) : sql``}`
  assert.equal((await read(true)).length, 2)
  assert.equal((await read(false)).length, 5)
})

test('query: count, command, columns, statement, state', async after => {
  const sql = client(after)
  const result = await sql`SELECT ${1}::int AS a`
  assert.deepEqual([result.count, result.command, result.columns[0].name], [1, 'SELECT', 'a'])
  assert.equal(result.state.pid > 0, true)
})

test('query: describe', async after => {
  const sql = client(after)
  const { columns, string, types } = await sql`SELECT ${1}::int AS a, 'x'::text AS b`.describe()
  assert.deepEqual([columns.map(column => column.type), types, string], [[23, 25], [23], `SELECT $1::int AS a, 'x'::text AS b`])
})

test('query: values and raw', async after => {
  const sql = client(after)
  assert.deepEqual([...await sql`SELECT 1 AS a, 2 AS a`.values()], [[1, 2]])
  assert.deepEqual([...await sql`SELECT 1 AS a`.raw()], [[Buffer.from('1')]])
})

test('query: forEach', async after => {
  const sql = client(after)
  let sum = 0
  await sql`SELECT n FROM generate_series(1, 1000) n`.forEach(({ n }) => { sum += n })
  assert.equal(sum, 500500)
})

test('query: several statements', async after => {
  const sql = client(after)
  const results = await sql`SELECT 1 AS a; SELECT 2 AS b`.simple()
  assert.deepEqual(results.map(plain), [[{ a: 1 }], [{ b: 2 }]])
})

test('query: unsafe, with and without prepare', async after => {
  const sql = client(after, { max: 1 })
  for (const prepare of [true, false, true])
    assert.equal((await sql.unsafe('SELECT $1::int + 1 AS a', [4], { prepare }))[0].a, 5)
})

test('query: transform', async after => {
  const sql = client(after, { transform: postgres.camel })
  assert.deepEqual(plain(await sql`SELECT 1 AS an_int, ${sql.json({ inner_key: 1 })}::jsonb AS some_json`), [{ anInt: 1, someJson: { innerKey: 1 } }])
})

test('types: of all kinds', async after => {
  const sql = client(after)
  const [row] = await sql`SELECT ${[1, 2]}::int[] AS ints, ${['a,b', '"']}::text[] AS texts, ${sql.json({ x: [1] })}::jsonb AS json,
    ${Buffer.from([0, 255])}::bytea AS bytes, ${new Date(86400000)}::timestamptz AS at, ${'9007199254740993'}::int8 AS big,
    ${'1.10'}::numeric AS num`
  assert.deepEqual({ ...row }, {
    ints: [1, 2], texts: ['a,b', '"'], json: { x: [1] }, bytes: Buffer.from([0, 255]), at: new Date(86400000),
    big: '9007199254740993', num: '1.10',
  })
})

test('types: bigint and a custom type', async after => {
  const rectangle = { to: 1337, from: [1337], serialize: x => x, parse: x => x }
  const sql = client(after, { types: { bigint: postgres.BigInt, rectangle } })
  assert.equal((await sql`SELECT ${9007199254740993n}::int8 AS a`)[0].a, 9007199254740993n)
})

test('types: arrays of an enum made just before', async after => {
  const admin = client(after)
  const name = fresh()
  await admin.unsafe(`CREATE TYPE ${name} AS ENUM ('low', 'high')`)
  const sql = client(after)
  const [row] = await sql.unsafe(`SELECT ARRAY['low', 'high']::${name}[] AS a`)
  assert.deepEqual(row.a, ['low', 'high'])
})

test('pipeline: a thousand queries on one connection', async after => {
  const sql = client(after, { max: 1 })
  const all = await Promise.all(Array.from({ length: 1000 }, (_, n) => sql`SELECT ${n}::int AS n`))
  all.forEach(([row], n) => assert.equal(row.n, n))
})

test('pipeline: writes and reads in turn on one connection', async after => {
  const sql = client(after, { max: 1 })
  const name = await table(sql, 'n int')
  const all = []
  for (let n = 1; n <= 100; n++) all.push(sql`INSERT INTO ${sql(name)} VALUES (${n})`, sql`SELECT count(*)::int AS n FROM ${sql(name)}`)
  const results = await Promise.all(all)
  for (let n = 1; n <= 100; n++) assert.equal(results[2 * n - 1][0].n, n)
})

test('pipeline: errors among a hundred queries', async after => {
  const sql = client(after, { max: 1 })
  const all = await Promise.allSettled(Array.from({ length: 100 }, (_, n) => sql`SELECT 10 / ${n % 10}::int AS n`))
  all.forEach((result, n) => n % 10 ? assert.equal(result.value[0].n, Math.floor(10 / (n % 10))) : assert.equal(result.reason.code, '22012'))
})

test('pipeline: statements that cannot be parsed among others', async after => {
  const sql = client(after, { max: 1 })
  const all = await Promise.allSettled(Array.from({ length: 60 }, (_, n) =>
    n % 3 ? sql.unsafe(`SELECT ${n} AS n`, [], { prepare: true }) : sql.unsafe(`SELECT FORM ${n}`, [], { prepare: true })))
  all.forEach((result, n) => n % 3 ? assert.equal(result.value[0].n, n) : assert.equal(result.reason.code, '42601'))
})

test('pipeline: in a transaction', async after => {
  const sql = client(after)
  const name = await table(sql, 'n int')
  const results = await sql.begin(sql => [
    sql`INSERT INTO ${sql(name)} VALUES (1) RETURNING n`, sql`UPDATE ${sql(name)} SET n = n + 1 RETURNING n`, sql`SELECT n FROM ${sql(name)}`,
  ])
  assert.deepEqual(results.map(([{ n }]) => n), [1, 2, 2])
})

test('pipeline: an error in a transaction', async after => {
  const sql = client(after)
  const name = await table(sql, 'n int')
  await rejects(sql.begin(sql => [sql`INSERT INTO ${sql(name)} VALUES (1)`, sql`SELECT 1 / 0`, sql`INSERT INTO ${sql(name)} VALUES (2)`]), '22012')
  assert.equal((await sql`SELECT * FROM ${sql(name)}`).length, 0)
})

test('pipeline: SET and SHOW in turn', async after => {
  const sql = client(after, { max: 1 })
  const all = []
  for (let n = 1; n <= 30; n++) all.push(sql.unsafe(`SET work_mem = '${n}MB'`), sql`SHOW work_mem`)
  const results = await Promise.all(all)
  for (let n = 1; n <= 30; n++) assert.equal(results[2 * n - 1][0].work_mem, `${n}MB`)
})

test('pipeline: large answers', async after => {
  const sql = client(after, { max: 2 })
  const all = await Promise.all(Array.from({ length: 20 }, (_, n) => sql`SELECT repeat(${`${n} `}, 200000) AS x`))
  all.forEach(([{ x }], n) => assert.equal(x.length, `${n} `.length * 200000))
})

test('prepared: a thousand texts, twice', async after => {
  const sql = client(after, { max: 4 })
  for (let round = 0; round < 2; round++) {
    const all = await Promise.all(Array.from({ length: 1000 }, (_, n) => sql.unsafe(`SELECT ${n} + $1::int AS n`, [round], { prepare: true })))
    all.forEach(([row], n) => assert.equal(row.n, n + round))
  }
})

test('prepared: off', async after => {
  const sql = client(after, { prepare: false, max: 2 })
  const all = await Promise.all(Array.from({ length: 100 }, (_, n) => sql`SELECT ${n}::int AS n`))
  all.forEach(([row], n) => assert.equal(row.n, n))
})

test('prepared: a column is added between executions', async after => {
  const sql = client(after, { max: 1 })
  const name = await table(sql, 'a int')
  await sql`INSERT INTO ${sql(name)} VALUES (1)`
  const read = () => sql`SELECT * FROM ${sql(name)}`
  assert.deepEqual(plain(await read()), [{ a: 1 }])
  await sql`ALTER TABLE ${sql(name)} ADD b int DEFAULT 2`
  // postgres.js prepares anew by itself where the server tells that it may.
  assert.deepEqual(plain(await read()), [{ a: 1, b: 2 }])
})

test('prepared: a table dropped and made again between executions', async after => {
  const sql = client(after, { max: 1 })
  const name = fresh()
  for (const type of ['int', 'text', 'int']) {
    await sql.unsafe(`CREATE TABLE ${name} AS SELECT '1'::${type} AS a`)
    assert.equal(String((await sql`SELECT * FROM ${sql(name)}`)[0].a), '1')
    await sql.unsafe(`DROP TABLE ${name}`)
  }
})

test('prepared: DEALLOCATE ALL in between', async after => {
  const sql = client(after, { max: 1 })
  const read = n => sql`SELECT ${n}::int AS a`
  assert.equal((await read(1))[0].a, 1)
  await sql.unsafe('DEALLOCATE ALL')
  // It prepares anew by itself, or does not know that its statement is gone.
  await read(2).catch(error => assert.equal(error.code, '26000'))
  assert.equal((await sql`SELECT ${3}::int AS b`)[0].b, 3)
})

test('transaction: returns what its function returns, savepoints', async after => {
  const sql = client(after)
  const name = await table(sql, 'a int')
  const result = await sql.begin('read write', async sql => {
    await sql`INSERT INTO ${sql(name)} VALUES (1)`
    await sql.savepoint(async sql => {
      await sql`INSERT INTO ${sql(name)} VALUES (2)`
      throw new Error('back')
    }).catch(() => {})
    await sql.savepoint('named', sql => sql`INSERT INTO ${sql(name)} VALUES (3)`)
    return 'done'
  })
  assert.equal(result, 'done')
  assert.deepEqual((await sql`SELECT a FROM ${sql(name)} ORDER BY a`).map(({ a }) => a), [1, 3])
})

test('transaction: rolled back by an error of JavaScript', async after => {
  const sql = client(after)
  const name = await table(sql, 'a int')
  await assert.rejects(sql.begin(async sql => {
    await sql`INSERT INTO ${sql(name)} VALUES (1)`
    throw new Error('own')
  }), /own/)
  assert.equal((await sql`SELECT * FROM ${sql(name)}`).length, 0)
})

test('transaction: PREPARE TRANSACTION', async after => {
  const sql = client(after, { max: 1 })
  const name = await table(sql, 'a int')
  const transaction = fresh()
  await sql.begin(async sql => {
    await sql`INSERT INTO ${sql(name)} VALUES (1)`
    await sql.prepare(transaction)
  })
  assert.equal((await sql`SELECT * FROM ${sql(name)}`).length, 0)
  await sql.unsafe(`COMMIT PREPARED '${transaction}'`)
  assert.equal((await sql`SELECT * FROM ${sql(name)}`).length, 1)
})

test('transaction: 200 at once on ten connections', async after => {
  const sql = client(after, { max: 10 })
  const name = await table(sql, 'id int PRIMARY KEY, n int')
  await sql`INSERT INTO ${sql(name)} VALUES (1, 0), (2, 0)`
  await Promise.allSettled(Array.from({ length: 200 }, (_, n) => sql.begin(async sql => {
    const [{ n: before }] = await sql`SELECT n FROM ${sql(name)} WHERE id = 1 FOR UPDATE`
    await sql`UPDATE ${sql(name)} SET n = ${before + 1} WHERE id = 1`
    await sql`UPDATE ${sql(name)} SET n = n - 1 WHERE id = 2`
    if (n % 4 === 0) throw new Error('back')
  })))
  assert.deepEqual((await sql`SELECT n FROM ${sql(name)} ORDER BY id`).map(({ n }) => n), [150, -150])
})

test('transaction: read only', async after => {
  const sql = client(after)
  const name = await table(sql, 'a int')
  await rejects(sql.begin('read only', sql => sql`INSERT INTO ${sql(name)} VALUES (1)`), '25006')
})

test('reserve: a connection of one\'s own', async after => {
  const sql = client(after, { max: 3 })
  const reserved = await sql.reserve()
  await reserved`CREATE TEMP TABLE mine (a int)`
  await Promise.all(Array.from({ length: 20 }, (_, n) => reserved`INSERT INTO mine VALUES (${n})`))
  assert.equal((await reserved`SELECT count(*)::int AS n FROM mine`)[0].n, 20)
  reserved.release()
})

test('cursor: by function, in batches', async after => {
  const sql = client(after)
  const sizes = []
  await sql`SELECT * FROM generate_series(1, 1000) AS x`.cursor(300, rows => { sizes.push(rows.length) })
  assert.deepEqual(sizes, [300, 300, 300, 100])
})

test('cursor: for await, left early', async after => {
  const sql = client(after, { max: 1 })
  const seen = []
  for await (const [row] of sql`SELECT * FROM generate_series(1, 1000) AS x`.cursor()) {
    seen.push(row.x)
    if (row.x === 5) break
  }
  assert.deepEqual(seen, [1, 2, 3, 4, 5])
  assert.equal((await sql`SELECT 1 AS a`)[0].a, 1)
})

test('cursor: sql.CLOSE', async after => {
  const sql = client(after, { max: 1 })
  let count = 0
  await sql`SELECT * FROM generate_series(1, 1000) AS x`.cursor(10, () => ++count === 3 ? sql.CLOSE : undefined)
  assert.equal(count, 3)
  assert.equal((await sql`SELECT 1 AS a`)[0].a, 1)
})

test('cursor: an error of the server', async after => {
  const sql = client(after, { max: 1 })
  await rejects(sql`SELECT 1 / (5 - x) FROM generate_series(1, 10) AS x`.cursor(2, () => {}), '22012')
  assert.equal((await sql`SELECT 1 AS a`)[0].a, 1)
})

test('cursor: eight at once', async after => {
  const sql = client(after, { max: 8 })
  const sums = await Promise.all(Array.from({ length: 8 }, async () => {
    let sum = 0
    for await (const rows of sql`SELECT x FROM generate_series(1, 2000) AS x`.cursor(100)) for (const { x } of rows) sum += x
    return sum
  }))
  assert.deepEqual(sums, Array(8).fill(2001000))
})

test('copy: in and out', async after => {
  const sql = client(after)
  const name = await table(sql, 'name text, age int')
  await pipeline(Readable.from(['Murray\t68\n', 'Walter\t80\n']), await sql`COPY ${sql(name)} FROM STDIN`.writable())
  let text = ''
  for await (const chunk of await sql`COPY (SELECT name, age FROM ${sql(name)} ORDER BY age) TO STDOUT`.readable()) text += chunk
  assert.equal(text, 'Murray\t68\nWalter\t80\n')
})

test('copy: a large table in a transaction', async after => {
  const sql = client(after)
  const name = await table(sql, 'a int, b text')
  await sql.begin(async sql => {
    const rows = Array.from({ length: 300 }, (_, n) => `${n}\t${'x'.repeat(5000)}\n`)
    await pipeline(Readable.from(rows), await sql`COPY ${sql(name)} FROM STDIN`.writable())
    assert.equal((await sql`SELECT count(*)::int AS n FROM ${sql(name)}`)[0].n, 300)
  })
  assert.equal((await sql`SELECT sum(length(b))::int AS n FROM ${sql(name)}`)[0].n, 1500000)
})

test('listen: with a payload, and unlisten', async after => {
  const sql = client(after)
  const heard = []
  const { unlisten } = await sql.listen('news', payload => heard.push(payload))
  await sql.notify('news', JSON.stringify({ no: 'this', is: 'news' }))
  await until(() => heard.length === 1)
  await unlisten()
  await sql.notify('news', 'more')
  await sleep(100)
  assert.deepEqual(heard, ['{"no":"this","is":"news"}'])
})

test('listen: two channels, two listeners', async after => {
  const sql = client(after)
  const heard = []
  await sql.listen('a', payload => heard.push(`a1 ${payload}`))
  await sql.listen('a', payload => heard.push(`a2 ${payload}`))
  await sql.listen('b', payload => heard.push(`b ${payload}`))
  await sql.notify('a', '1')
  await sql.notify('b', '2')
  await until(() => heard.length === 3)
  assert.deepEqual(heard.sort(), ['a1 1', 'a2 1', 'b 2'])
})

test('listen: once more after the server has ended the connection', async after => {
  const sql = client(after)
  const heard = []
  let begun = 0
  const { state } = await sql.listen('again', payload => heard.push(payload), () => { begun++ })
  await sql`SELECT pg_terminate_backend(${state.pid})`
  await until(() => begun === 2, 3000)
  await sql.notify('again', 'x')
  await until(() => heard.length === 1)
})

test('cancel: a query in progress', async after => {
  const sql = client(after, { max: 1 })
  const query = sql`SELECT pg_sleep(20)`.execute()
  setTimeout(() => query.cancel(), 300)
  await rejects(query, '57014')
  assert.equal((await sql`SELECT 1 AS a`)[0].a, 1)
})

test('cancel: one of ten', async after => {
  const sql = client(after, { max: 10 })
  const queries = Array.from({ length: 10 }, (_, n) => sql`SELECT pg_sleep(1), ${n}::int AS n`.execute())
  setTimeout(() => queries[4].cancel(), 300)
  const all = await Promise.allSettled(queries)
  assert.deepEqual(all.map(({ status }) => status), all.map((_, n) => n === 4 ? 'rejected' : 'fulfilled'))
})

test('error: fields', async after => {
  const sql = client(after)
  const name = await table(sql, 'a int PRIMARY KEY')
  await sql`INSERT INTO ${sql(name)} VALUES (1)`
  const error = await sql`INSERT INTO ${sql(name)} VALUES (1)`.catch(error => error)
  assert.deepEqual([error.code, error.schema_name, error.severity], ['23505', 'public', 'ERROR'])
})

test('error: notices', async after => {
  const heard = []
  const sql = client(after, { onnotice: ({ message }) => heard.push(message) })
  await sql`DO $$ BEGIN RAISE NOTICE 'hear'; END $$`
  assert.deepEqual(heard, ['hear'])
})

test('error: parameters reported', async after => {
  const heard = []
  const sql = client(after, { max: 1, onparameter: (name, value) => heard.push([name, value]) })
  await sql`SET application_name = 'changed'`
  await until(() => heard.some(([name, value]) => name === 'application_name' && value === 'changed'))
})

test('subscribe: to logical replication', async after => {
  const sql = client(after, { publications: 'everything' })
  await sql`CREATE PUBLICATION everything FOR ALL TABLES`
  after(() => sql`DROP PUBLICATION everything`)
  const name = fresh()
  await sql.unsafe(`CREATE TABLE ${name} (id int PRIMARY KEY)`)
  const heard = []
  const { unsubscribe } = await sql.subscribe('insert', row => heard.push(row.id))
  await sql`INSERT INTO ${sql(name)} VALUES (5)`
  await until(() => heard.length === 1)
  await unsubscribe()
})

test('end: waits for queries', async () => {
  const sql = postgres({ max: 2 })
  const queries = Promise.all(Array.from({ length: 20 }, (_, n) => sql`SELECT ${n}::int AS n, pg_sleep(0.01)`))
  await sleep(5)
  await sql.end({ timeout: 5 })
  assert.equal((await queries).length, 20)
})

await run()
