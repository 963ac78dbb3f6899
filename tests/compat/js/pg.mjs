// What node-postgres' documentation shows, and what its users do: pg, pg-pool, pg-cursor, pg-query-stream, pg-copy-streams.
import assert from 'node:assert/strict'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import pg from 'pg'
import copy from 'pg-copy-streams'
import Cursor from 'pg-cursor'
import QueryStream from 'pg-query-stream'
import { fresh, run, sleep, test, until } from './harness.mjs'

async function connected(after, options = {}) {
  const client = new pg.Client(options)
  client.on('error', () => {})
  await client.connect()
  after(() => client.end())
  return client
}

function pooled(after, options = {}) {
  const pool = new pg.Pool(options)
  pool.on('error', () => {})
  after(() => pool.end())
  return pool
}

async function table(client, columns) {
  const name = fresh()
  await client.query(`CREATE TABLE ${name} (${columns})`)
  return name
}

const rejects = (promise, code) => assert.rejects(promise, error => assert.equal(error.code, code) ?? true)

test('connect: environment', async after => {
  const client = await connected(after)
  const { rows } = await client.query('SELECT $1::text AS message', ['Hello world!'])
  assert.equal(rows[0].message, 'Hello world!')
})

test('connect: connection string with options', async after => {
  const { PGUSER, PGPASSWORD, PGHOST, PGPORT, PGDATABASE } = process.env
  const connectionString = `postgres://${PGUSER}:${PGPASSWORD}@${PGHOST}:${PGPORT}/${PGDATABASE}?application_name=named`
  const client = await connected(after, { connectionString })
  assert.equal((await client.query('SHOW application_name')).rows[0].application_name, 'named')
})

test('connect: statement_timeout, lock_timeout and idle_in_transaction_session_timeout', async after => {
  const client = await connected(after, {
    statement_timeout: 1234, lock_timeout: 2345, idle_in_transaction_session_timeout: 3456,
  })
  for (const [name, value] of [['statement_timeout', '1234ms'], ['lock_timeout', '2345ms'], ['idle_in_transaction_session_timeout', '3456ms']])
    assert.equal((await client.query(`SHOW ${name}`)).rows[0][name], value)
})

test('connect: options', async after => {
  const client = await connected(after, { options: '-c search_path=pg_catalog,public -c work_mem=5MB' })
  assert.equal((await client.query('SHOW work_mem')).rows[0].work_mem, '5MB')
})

test('connect: wrong password', async () => {
  await rejects(new pg.Client({ password: 'wrong' }).connect(), '28P01')
})

test('connect: unknown database', async () => {
  await rejects(new pg.Client({ database: 'nowhere' }).connect(), '3D000')
})

test('connect: end() resolves, then queries reject', async () => {
  const client = new pg.Client()
  await client.connect()
  await client.end()
  await assert.rejects(client.query('SELECT 1'))
})

test('connect: fifty at once', async after => {
  const clients = await Promise.all(Array.from({ length: 50 }, () => connected(after)))
  const all = await Promise.all(clients.map((client, n) => client.query('SELECT $1::int AS n', [n])))
  assert.deepEqual(all.map(({ rows }) => rows[0].n), [...Array(50).keys()])
})

test('query: several statements', async after => {
  const client = await connected(after)
  const results = await client.query('SELECT 1 AS a; SELECT 2 AS b, 3 AS c; SELECT WHERE false')
  assert.deepEqual(results.map(result => result.rows), [[{ a: 1 }], [{ b: 2, c: 3 }], []])
})

test('query: several statements are one transaction', async after => {
  const client = await connected(after)
  const name = await table(client, 'a int')
  await rejects(client.query(`INSERT INTO ${name} VALUES (1); SELECT 1/0`), '22012')
  assert.equal((await client.query(`SELECT count(*)::int AS n FROM ${name}`)).rows[0].n, 0)
})

test('query: empty', async after => {
  const client = await connected(after)
  assert.deepEqual((await client.query('')).rows, [])
  assert.deepEqual((await client.query({ text: '', values: [] })).rows, [])
})

test('query: result fields, rowCount and command', async after => {
  const client = await connected(after)
  const name = await table(client, 'id serial, word text')
  const inserted = await client.query(`INSERT INTO ${name} (word) VALUES ($1), ($2) RETURNING *`, ['a', 'b'])
  assert.equal(inserted.command, 'INSERT')
  assert.equal(inserted.rowCount, 2)
  assert.deepEqual(inserted.fields.map(field => field.name), ['id', 'word'])
  assert.equal(inserted.fields[1].tableID > 0, true)
  const read = await client.query(`SELECT * FROM ${name} ORDER BY id`)
  assert.deepEqual(read.rows, [{ id: 1, word: 'a' }, { id: 2, word: 'b' }])
})

test('query: rowMode array, types override', async after => {
  const client = await connected(after)
  const types = { getTypeParser: () => value => `<${value}>` }
  const { rows } = await client.query({ text: 'SELECT 1 AS a, 2 AS a', rowMode: 'array', types })
  assert.deepEqual(rows, [['<1>', '<2>']])
})

test('query: binary', async after => {
  const client = await connected(after, { binary: true })
  const { rows } = await client.query('SELECT $1::int AS a, true AS b, 2::int2 AS c', [7])
  assert.deepEqual(rows, [{ a: 7, b: true, c: 2 }])
})

test('query: queued on one client', async after => {
  const client = await connected(after)
  const name = await table(client, 'n int')
  const all = []
  for (let n = 0; n < 100; n++) {
    all.push(client.query(`INSERT INTO ${name} VALUES ($1)`, [n]))
    all.push(client.query(`SELECT count(*)::int AS n FROM ${name}`))
  }
  const results = await Promise.all(all)
  assert.deepEqual(results.filter((_, n) => n % 2).map(({ rows }) => rows[0].n), Array.from({ length: 100 }, (_, n) => n + 1))
})

test('query: an error between others on one client', async after => {
  const client = await connected(after)
  const [first, second, third] = await Promise.allSettled([
    client.query('SELECT 1 AS a'), client.query('SELECT $1::int / 0', [1]), client.query('SELECT 3 AS a'),
  ])
  assert.equal(first.value.rows[0].a, 1)
  assert.equal(second.reason.code, '22012')
  assert.equal(third.value.rows[0].a, 3)
})

test('query: callback', async after => {
  const client = await connected(after)
  const rows = await new Promise((resolve, reject) =>
    client.query('SELECT $1::int AS a', [4], (error, result) => (error ? reject(error) : resolve(result.rows))))
  assert.equal(rows[0].a, 4)
})

test('query: query_timeout leaves the client usable', async after => {
  const client = await connected(after)
  await assert.rejects(client.query({ text: 'SELECT pg_sleep(0.5)', query_timeout: 50 }), /timeout/)
  assert.equal((await client.query('SELECT 1 AS a')).rows[0].a, 1)
})

test('query: a megabyte there and back', async after => {
  const client = await connected(after)
  const text = 'é'.repeat(1 << 20)
  assert.equal((await client.query('SELECT $1::text AS a', [text])).rows[0].a, text)
})

test('query: 100000 rows', async after => {
  const client = await connected(after)
  const { rows } = await client.query('SELECT n, repeat($1, 20) AS x FROM generate_series(1, 100000) n', ['ab'])
  assert.equal(rows.length, 100000)
  assert.equal(rows[99999].n, 100000)
})

test('query: as many parameters as there can be', async after => {
  const client = await connected(after)
  const values = [...Array(65535).keys()].map(String)
  const { rows } = await client.query(`SELECT array_length(ARRAY[${values.map((_, n) => `$${n + 1}`)}]::text[], 1) AS n`, values)
  assert.equal(rows[0].n, 65535)
})

test('error: fields', async after => {
  const client = await connected(after)
  const name = await table(client, 'a int PRIMARY KEY, b int CHECK (b > 0)')
  await client.query(`INSERT INTO ${name} VALUES (1, 1)`)
  const error = await client.query(`INSERT INTO ${name} VALUES (1, 1)`).catch(error => error)
  assert.deepEqual([error.code, error.table, error.constraint, error.schema, error.severity], ['23505', name, `${name}_pkey`, 'public', 'ERROR'])
  assert.match(error.detail, /already exists/)
  const unknown = await client.query('SELECT unknown').catch(error => error)
  assert.deepEqual([unknown.code, unknown.position], ['42703', '8'])
  await rejects(client.query(`INSERT INTO ${name} VALUES (2, 0)`), '23514')
})

test('error: notices', async after => {
  const client = await connected(after)
  const notices = []
  client.on('notice', notice => notices.push(notice.message))
  await client.query(`DO $$ BEGIN RAISE NOTICE 'hear'; RAISE WARNING 'hear again'; END $$`)
  assert.deepEqual(notices, ['hear', 'hear again'])
})

test('error: a value that cannot be converted', async after => {
  const client = await connected(after)
  await rejects(client.query('SELECT $1::int', ['x']), '22P02')
  assert.equal((await client.query('SELECT $1::int AS a', ['5'])).rows[0].a, 5)
})

test('prepared: named statement, executed repeatedly', async after => {
  const client = await connected(after)
  for (let n = 0; n < 20; n++)
    assert.equal((await client.query({ name: 'add', text: 'SELECT $1::int + 1 AS n', values: [n] })).rows[0].n, n + 1)
})

test('prepared: one name on many clients with other texts', async after => {
  const clients = await Promise.all(Array.from({ length: 20 }, () => connected(after)))
  for (let round = 0; round < 5; round++)
    await Promise.all(clients.map(async (client, n) => {
      const { rows } = await client.query({ name: 'same', text: `SELECT ${n} AS client, $1::int AS round`, values: [round] })
      assert.deepEqual(rows, [{ client: n, round }])
    }))
})

test('prepared: another text under a name is refused', async after => {
  const client = await connected(after)
  await client.query({ name: 'one', text: 'SELECT 1' })
  await assert.rejects(client.query({ name: 'one', text: 'SELECT 2' }), /must be unique/)
})

test('prepared: in pg_prepared_statements', async after => {
  const client = await connected(after)
  await client.query({ name: 'listed', text: 'SELECT $1::int AS a', values: [1] })
  const { rows } = await client.query('SELECT name, statement, from_sql FROM pg_prepared_statements')
  assert.deepEqual(rows, [{ name: 'listed', statement: 'SELECT $1::int AS a', from_sql: false }])
})

test('prepared: DEALLOCATE, and SQL EXECUTE of a name of the protocol', async after => {
  const client = await connected(after)
  await client.query({ name: 'twofold', text: 'SELECT $1::int AS a', values: [1] })
  assert.equal((await client.query('EXECUTE twofold(8)')).rows[0].a, 8)
  await client.query('DEALLOCATE twofold')
  await rejects(client.query('EXECUTE twofold(8)'), '26000')
})

test('prepared: a column is added between executions', async after => {
  const client = await connected(after)
  const name = await table(client, 'a int')
  await client.query(`INSERT INTO ${name} VALUES (1)`)
  const read = { name: 'star', text: `SELECT * FROM ${name}` }
  assert.deepEqual((await client.query(read)).rows, [{ a: 1 }])
  await client.query(`ALTER TABLE ${name} ADD b int DEFAULT 2`)
  await rejects(client.query(read), '0A000')
})

test('prepared: fails to parse, then works under the name', async after => {
  const client = await connected(after)
  const name = fresh()
  const read = { name: 'later', text: `SELECT * FROM ${name}` }
  await rejects(client.query(read), '42P01')
  await client.query(`CREATE TABLE ${name} (a int)`)
  assert.deepEqual((await client.query(read)).rows, [])
})

test('prepared: 500 names', async after => {
  const client = await connected(after)
  for (let round = 0; round < 2; round++)
    for (let n = 0; n < 500; n++) {
      const { rows } = await client.query({ name: `s${n}`, text: `SELECT ${n} + $1::int AS n`, values: [round] })
      assert.equal(rows[0].n, n + round)
    }
})

const types = {
  'int2, int4, int8': ['SELECT $1::int2 a, $2::int4 b, $3::int8 c', [1, 2, '9007199254740993'], { a: 1, b: 2, c: '9007199254740993' }],
  'numeric and floats': ['SELECT $1::numeric a, $2::float4 b, $3::float8 c', ['1.10', 1.5, Infinity], { a: '1.10', b: 1.5, c: Infinity }],
  'bool and null': ['SELECT $1::bool a, $2::text b', [true, null], { a: true, b: null }],
  'json and jsonb': ['SELECT $1::json a, $2::jsonb b', [{ x: [1] }, { y: null }], { a: { x: [1] }, b: { y: null } }],
  'arrays': ['SELECT $1::int[] a, $2::text[] b, $3::text[][] c', [[1, 2], ['a,b', null, '"'], [['x'], ['y']]], { a: [1, 2], b: ['a,b', null, '"'], c: [['x'], ['y']] }],
  'bytea': ['SELECT $1::bytea a', [Buffer.from([0, 255, 1])], { a: Buffer.from([0, 255, 1]) }],
  'timestamptz': ['SELECT $1::timestamptz a', [new Date(86400000)], { a: new Date(86400000) }],
  'uuid, inet, interval': ['SELECT $1::uuid a, $2::inet b, extract(epoch FROM $3::interval)::int c', ['00000000-0000-0000-0000-000000000001', '10.0.0.1', '1 hour'], { a: '00000000-0000-0000-0000-000000000001', b: '10.0.0.1', c: 3600 }],
  'point and circle': ['SELECT $1::point a, $2::circle b', ['(1,2)', '<(1,2),3>'], { a: { x: 1, y: 2 }, b: { x: 1, y: 2, radius: 3 } }],
}
for (const [name, [text, values, expected]] of Object.entries(types))
  test(`types: ${name}`, async after => {
    const client = await connected(after)
    assert.deepEqual((await client.query(text, values)).rows, [expected])
  })

test('types: an enum made just before', async after => {
  const client = await connected(after)
  const name = fresh()
  await client.query(`CREATE TYPE ${name} AS ENUM ('low', 'high')`)
  assert.deepEqual((await client.query(`SELECT $1::${name} AS a`, ['high'])).rows, [{ a: 'high' }])
})

test('transaction: commit, rollback, savepoint', async after => {
  const client = await connected(after)
  const name = await table(client, 'a int')
  await client.query('BEGIN')
  await client.query(`INSERT INTO ${name} VALUES ($1)`, [1])
  await client.query('SAVEPOINT s')
  await client.query(`INSERT INTO ${name} VALUES ($1)`, [2])
  await client.query('ROLLBACK TO s')
  await client.query('COMMIT')
  await client.query('BEGIN')
  await client.query(`INSERT INTO ${name} VALUES ($1)`, [3])
  await client.query('ROLLBACK')
  assert.deepEqual((await client.query(`SELECT * FROM ${name}`)).rows, [{ a: 1 }])
})

test('transaction: an error fails it until it ends', async after => {
  const client = await connected(after)
  await client.query('BEGIN')
  await rejects(client.query('SELECT 1/0'), '22012')
  await rejects(client.query('SELECT 1'), '25P02')
  assert.equal((await client.query('COMMIT')).command, 'ROLLBACK')
  assert.equal((await client.query('SELECT 1 AS a')).rows[0].a, 1)
})

test('transaction: isolation levels and read only', async after => {
  const client = await connected(after)
  await client.query('BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY')
  assert.equal((await client.query('SHOW transaction_isolation')).rows[0].transaction_isolation, 'serializable')
  await rejects(client.query('CREATE TABLE no_such_table ()'), '25006')
  await client.query('ROLLBACK')
})

test('transaction: a serialization failure', async after => {
  const [first, second] = [await connected(after), await connected(after)]
  const name = await table(first, 'a int')
  for (const client of [first, second]) {
    await client.query('BEGIN ISOLATION LEVEL SERIALIZABLE')
    await client.query(`SELECT * FROM ${name}`)
  }
  for (const client of [first, second]) await client.query(`INSERT INTO ${name} VALUES (1)`)
  await first.query('COMMIT')
  await rejects(second.query('COMMIT'), '40001')
})

test('session: SET stays, RESET ALL', async after => {
  const [first, second] = [await connected(after), await connected(after)]
  await first.query(`SET TIME ZONE 'Asia/Tokyo'`)
  await second.query(`SET TIME ZONE 'Europe/Paris'`)
  for (let n = 0; n < 10; n++) {
    assert.equal((await first.query('SHOW timezone')).rows[0].TimeZone, 'Asia/Tokyo')
    assert.equal((await second.query('SHOW timezone')).rows[0].TimeZone, 'Europe/Paris')
  }
  await first.query('RESET ALL')
  assert.notEqual((await first.query('SHOW timezone')).rows[0].TimeZone, 'Asia/Tokyo')
})

test('session: temporary tables are the client\'s own', async after => {
  const clients = await Promise.all(Array.from({ length: 8 }, () => connected(after)))
  await Promise.all(clients.map(async (client, n) => {
    await client.query('CREATE TEMP TABLE mine (n int)')
    await client.query('INSERT INTO mine VALUES ($1)', [n])
    await sleep(20)
    assert.deepEqual((await client.query('SELECT n FROM mine')).rows, [{ n }])
  }))
})

test('session: advisory locks', async after => {
  const [first, second] = [await connected(after), await connected(after)]
  const take = client => client.query('SELECT pg_try_advisory_lock(4711) AS got').then(({ rows }) => rows[0].got)
  assert.equal(await take(first), true)
  assert.equal(await take(second), false)
  await first.query('SELECT pg_advisory_unlock(4711)')
  assert.equal(await take(second), true)
})

test('session: currval and lastval', async after => {
  const [first, second] = [await connected(after), await connected(after)]
  const name = await table(first, 'id serial, a int')
  await first.query(`INSERT INTO ${name} (a) VALUES (1)`)
  await second.query(`INSERT INTO ${name} (a) VALUES (2)`)
  assert.equal((await first.query('SELECT lastval()::int AS n')).rows[0].n, 1)
  assert.equal((await second.query(`SELECT currval('${name}_id_seq')::int AS n`)).rows[0].n, 2)
})

test('pool: query', async after => {
  const pool = pooled(after)
  assert.equal((await pool.query('SELECT $1::int AS a', [1])).rows[0].a, 1)
})

test('pool: what one has written, another reads', async after => {
  const pool = pooled(after, { max: 10 })
  const name = await table(pool, 'n int')
  for (let n = 1; n <= 20; n++) {
    await pool.query(`INSERT INTO ${name} VALUES ($1)`, [n])
    assert.equal((await pool.query(`SELECT max(n) AS n FROM ${name}`)).rows[0].n, n)
  }
})

test('pool: concurrent transfers keep the sum', async after => {
  const pool = pooled(after, { max: 20 })
  const name = await table(pool, 'id int PRIMARY KEY, amount int')
  await pool.query(`INSERT INTO ${name} SELECT n, 100 FROM generate_series(1, 10) n`)
  await Promise.all(Array.from({ length: 200 }, async (_, n) => {
    const client = await pool.connect()
    try {
      const [from, to] = [1 + (n % 10), 1 + ((n * 7 + 3) % 10)].sort((a, b) => a - b)
      await client.query('BEGIN')
      await client.query(`UPDATE ${name} SET amount = amount - 1 WHERE id = $1`, [from])
      await client.query({ name: 'give', text: `UPDATE ${name} SET amount = amount + 1 WHERE id = $1`, values: [to] })
      await client.query(n % 5 ? 'COMMIT' : 'ROLLBACK')
    } finally {
      client.release()
    }
  }))
  assert.equal((await pool.query(`SELECT sum(amount)::int AS n FROM ${name}`)).rows[0].n, 1000)
})

test('pool: 40 clients, 1000 named queries', async after => {
  const pool = pooled(after, { max: 40 })
  const results = await Promise.all(Array.from({ length: 1000 }, (_, n) =>
    pool.query({ name: `p${n % 30}`, text: `SELECT ${n % 30} AS which, $1::int AS n`, values: [n] })))
  results.forEach(({ rows }, n) => assert.deepEqual(rows, [{ which: n % 30, n }]))
})

test('pool: a client ended by the server is replaced', async after => {
  const pool = pooled(after, { max: 1 })
  const other = await connected(after)
  const client = await pool.connect()
  client.on('error', () => {})
  const { rows: [{ pid }] } = await client.query('SELECT pg_backend_pid() AS pid')
  await other.query('SELECT pg_terminate_backend($1)', [pid])
  await assert.rejects(client.query('SELECT 1'))
  client.release(true)
  assert.equal((await pool.query('SELECT 1 AS a')).rows[0].a, 1)
})

test('pool: maxUses, idleTimeoutMillis', async after => {
  const pool = pooled(after, { max: 3, maxUses: 2, idleTimeoutMillis: 50 })
  for (let n = 0; n < 20; n++) await pool.query('SELECT 1')
  await until(() => pool.totalCount === 0)
})

test('cursor: read to the end', async after => {
  const client = await connected(after)
  const cursor = client.query(new Cursor('SELECT n FROM generate_series(1, $1::int) n', [250]))
  const sizes = []
  for (let rows; (rows = await cursor.read(100)).length; ) sizes.push(rows.length)
  assert.deepEqual(sizes, [100, 100, 50])
  await cursor.close()
  assert.equal((await client.query('SELECT 1 AS a')).rows[0].a, 1)
})

test('cursor: closed before its end', async after => {
  const client = await connected(after)
  const cursor = client.query(new Cursor('SELECT n FROM generate_series(1, 100000) n'))
  assert.equal((await cursor.read(10)).length, 10)
  await cursor.close()
  assert.equal((await client.query('SELECT 2 AS a')).rows[0].a, 2)
})

test('cursor: an error while reading', async after => {
  const client = await connected(after)
  const cursor = client.query(new Cursor('SELECT 10 / (3 - n) AS x FROM generate_series(1, 5) n'))
  assert.equal((await cursor.read(2)).length, 2)
  await rejects(cursor.read(2), '22012')
  assert.equal((await client.query('SELECT 3 AS a')).rows[0].a, 3)
})

test('cursor: in a transaction that writes between reads', async after => {
  const client = await connected(after)
  const name = await table(client, 'n int')
  await client.query(`INSERT INTO ${name} SELECT generate_series(1, 10)`)
  await client.query('BEGIN')
  await client.query(`DECLARE c CURSOR FOR SELECT n FROM ${name} ORDER BY n`)
  assert.equal((await client.query('FETCH 4 FROM c')).rows.length, 4)
  await client.query(`DELETE FROM ${name}`)
  assert.equal((await client.query('FETCH ALL FROM c')).rows.length, 6)
  await client.query('COMMIT')
})

test('cursor: WITH HOLD', async after => {
  const client = await connected(after)
  await client.query('DECLARE held CURSOR WITH HOLD FOR SELECT generate_series(1, 5) AS n')
  assert.deepEqual((await client.query('FETCH 2 FROM held')).rows, [{ n: 1 }, { n: 2 }])
  assert.deepEqual((await client.query('FETCH ALL FROM held')).rows.length, 3)
  await client.query('CLOSE held')
})

test('stream: all rows', async after => {
  const client = await connected(after)
  let sum = 0
  for await (const row of client.query(new QueryStream('SELECT n FROM generate_series(1, $1::int) n', [10000], { batchSize: 333 }))) sum += row.n
  assert.equal(sum, 50005000)
})

test('stream: left early', async after => {
  const client = await connected(after)
  for await (const row of client.query(new QueryStream('SELECT n FROM generate_series(1, 100000) n'))) if (row.n === 20) break
  assert.equal((await client.query('SELECT 1 AS a')).rows[0].a, 1)
})

test('stream: ten at once on a pool', async after => {
  const pool = pooled(after)
  const counts = await Promise.all(Array.from({ length: 10 }, async () => {
    const client = await pool.connect()
    let count = 0
    for await (const _ of client.query(new QueryStream('SELECT generate_series(1, 3000)'))) count++
    client.release()
    return count
  }))
  assert.deepEqual(counts, Array(10).fill(3000))
})

test('copy: in', async after => {
  const client = await connected(after)
  const name = await table(client, 'a int, b text')
  const rows = Array.from({ length: 20000 }, (_, n) => `${n}\trow ${n}\n`)
  await pipeline(Readable.from(rows), client.query(copy.from(`COPY ${name} FROM STDIN`)))
  assert.equal((await client.query(`SELECT count(*)::int AS n FROM ${name}`)).rows[0].n, 20000)
})

test('copy: out', async after => {
  const client = await connected(after)
  let text = ''
  for await (const part of client.query(copy.to(`COPY (SELECT n, n * 2 FROM generate_series(1, 20000) n) TO STDOUT WITH (FORMAT csv)`))) text += part
  const lines = text.trimEnd().split('\n')
  assert.deepEqual([lines.length, lines.at(-1)], [20000, '20000,40000'])
})

test('copy: in, with a wrong row', async after => {
  const client = await connected(after)
  const name = await table(client, 'a int')
  await rejects(pipeline(Readable.from(['1\n', 'x\n']), client.query(copy.from(`COPY ${name} FROM STDIN`))), '22P02')
  assert.equal((await client.query(`SELECT count(*)::int AS n FROM ${name}`)).rows[0].n, 0)
})

test('copy: in, given up by the client', async after => {
  const client = await connected(after)
  const name = await table(client, 'a int')
  const stream = client.query(copy.from(`COPY ${name} FROM STDIN`))
  async function* broken() {
    yield '1\n'
    throw new Error('given up')
  }
  await assert.rejects(pipeline(Readable.from(broken()), stream))
  assert.equal((await client.query(`SELECT count(*)::int AS n FROM ${name}`)).rows[0].n, 0)
})

test('copy: from one client to another', async after => {
  const [first, second] = [await connected(after), await connected(after)]
  const name = await table(first, 'a int')
  await pipeline(first.query(copy.to('COPY (SELECT generate_series(1, 5000)) TO STDOUT')), second.query(copy.from(`COPY ${name} FROM STDIN`)))
  assert.equal((await second.query(`SELECT sum(a)::int AS n FROM ${name}`)).rows[0].n, 12502500)
})

test('listen: from another client, with a payload', async after => {
  const [listener, sender] = [await connected(after), await connected(after)]
  const heard = []
  listener.on('notification', ({ channel, payload }) => heard.push([channel, payload]))
  await listener.query('LISTEN music')
  await sender.query(`NOTIFY music, 'bar'`)
  await sender.query('SELECT pg_notify($1, $2)', ['music', 'baz'])
  await until(() => heard.length === 2)
  assert.deepEqual(heard, [['music', 'bar'], ['music', 'baz']])
})

test('listen: oneself', async after => {
  const client = await connected(after)
  const heard = []
  client.on('notification', ({ payload }) => heard.push(payload))
  await client.query('LISTEN own')
  await client.query(`NOTIFY own, 'x'`)
  await until(() => heard.length === 1)
})

test('listen: only what is committed, in order', async after => {
  const [listener, sender] = [await connected(after), await connected(after)]
  const heard = []
  listener.on('notification', ({ payload }) => heard.push(payload))
  await listener.query('LISTEN ordered')
  await sender.query('BEGIN')
  await sender.query(`NOTIFY ordered, 'lost'`)
  await sender.query('ROLLBACK')
  await sender.query('BEGIN')
  for (let n = 0; n < 50; n++) await sender.query('SELECT pg_notify($1, $2)', ['ordered', `${n}`])
  await sleep(50)
  assert.deepEqual(heard, [])
  await sender.query('COMMIT')
  await until(() => heard.length === 50)
  assert.deepEqual(heard, [...Array(50).keys()].map(String))
})

test('listen: UNLISTEN', async after => {
  const [listener, sender] = [await connected(after), await connected(after)]
  const heard = []
  listener.on('notification', ({ channel }) => heard.push(channel))
  await listener.query('LISTEN one')
  await listener.query('LISTEN two')
  await listener.query('UNLISTEN one')
  await sender.query('NOTIFY one')
  await sender.query('NOTIFY two')
  await until(() => heard.length === 1)
  await sleep(100)
  assert.deepEqual(heard, ['two'])
})

const channels = client => client.query('SELECT pg_listening_channels() AS name ORDER BY 1').then(({ rows }) => rows.map(({ name }) => name))

test('listen: pg_listening_channels in a transaction', async after => {
  const client = await connected(after)
  await client.query('LISTEN here')
  await client.query('BEGIN')
  assert.deepEqual(await channels(client), ['here'])
  await client.query('COMMIT')
})

test('listen: UNLISTEN of two in a transaction', async after => {
  const client = await connected(after)
  await client.query('LISTEN this')
  await client.query('LISTEN that')
  await client.query('BEGIN')
  await client.query('UNLISTEN this')
  await client.query('UNLISTEN that')
  await client.query('COMMIT')
  assert.deepEqual(await channels(client), [])
})

test('listen: LISTEN rolled back, UNLISTEN rolled back', async after => {
  const client = await connected(after)
  await client.query('LISTEN stays')
  await client.query('BEGIN')
  await client.query('LISTEN never')
  await client.query('UNLISTEN stays')
  await client.query('ROLLBACK')
  assert.deepEqual(await channels(client), ['stays'])
})

test('listen: 60 listeners, more than there are server connections', async after => {
  const listeners = await Promise.all(Array.from({ length: 60 }, () => connected(after)))
  const heard = []
  for (const listener of listeners) listener.on('notification', ({ channel }) => heard.push(channel))
  for (let round = 0; round < 5; round++) {
    await Promise.all(listeners.map(listener => listener.query(`LISTEN crowd${round}`)))
    await listeners[round].query(`NOTIFY crowd${round}`)
    await until(() => heard.length >= 60)
    await sleep(100)
    assert.deepEqual(heard.splice(0), Array(60).fill(`crowd${round}`))
  }
})

test('cancel: by pg_cancel_backend', async after => {
  const [first, second] = [await connected(after), await connected(after)]
  const { rows: [{ pid }] } = await first.query('SELECT pg_backend_pid() AS pid')
  const sleeping = rejects(first.query('SELECT pg_sleep(20)'), '57014')
  await sleep(100)
  await second.query('SELECT pg_cancel_backend($1)', [pid])
  await sleeping
  assert.equal((await first.query('SELECT 1 AS a')).rows[0].a, 1)
})

test('cancel: by a cancel request', async after => {
  const client = await connected(after)
  const query = new pg.Query('SELECT pg_sleep(20)')
  const ended = new Promise(resolve => query.once('error', resolve))
  client.query(query)
  await sleep(200)
  new pg.Client().cancel(client, query)
  assert.equal((await ended).code, '57014')
  assert.equal((await client.query('SELECT 1 AS a')).rows[0].a, 1)
})

test('cancel: by statement_timeout', async after => {
  const client = await connected(after, { statement_timeout: 100 })
  await rejects(client.query('SELECT pg_sleep(20)'), '57014')
  assert.equal((await client.query('SELECT 1 AS a')).rows[0].a, 1)
})

test('leaving: an open transaction is rolled back', async after => {
  const [first, second] = [new pg.Client(), await connected(after)]
  const name = await table(second, 'a int')
  await first.connect()
  await first.query('BEGIN')
  await first.query(`INSERT INTO ${name} VALUES (1)`)
  await first.end()
  await second.query(`LOCK TABLE ${name}`).catch(error => assert.equal(error.code, '25P01'))
  await second.query(`ALTER TABLE ${name} ADD b int`)
  assert.deepEqual((await second.query(`SELECT * FROM ${name}`)).rows, [])
})

test('leaving: the socket is destroyed during a query', async after => {
  const [first, second] = [new pg.Client(), await connected(after)]
  first.on('error', () => {})
  await first.connect()
  const name = await table(second, 'a int')
  await first.query('BEGIN')
  await first.query(`LOCK TABLE ${name}`)
  first.query('SELECT pg_sleep(1)').catch(() => {})
  await sleep(50)
  first.connection.stream.destroy()
  await second.query(`INSERT INTO ${name} VALUES (1)`)
})

await run()
