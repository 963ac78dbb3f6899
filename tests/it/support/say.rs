//! The client's messages as bytes (PostgreSQL, "Message Formats", marked F), well-formed or not.

/// A frame of any tag and body.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    claiming(tag, body.len() as u32 + 4, body)
}

/// A frame whose length word says `length`, whatever its body has.
pub fn claiming(tag: u8, length: u32, body: &[u8]) -> Vec<u8> {
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

/// `StartupMessage` of protocol 3.0.
pub fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = 196_608u32.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend(cstring(name));
        body.extend(cstring(value));
    }
    body.push(0);
    untagged(&body)
}

/// A packet as it comes before and with the startup: a length and a body.
pub fn untagged(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
}

pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &cstring(sql))
}

pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    parse_typed(name, sql, &[])
}

/// `types` are OIDs; 0 leaves a parameter's type to the server.
pub fn parse_typed(name: &str, sql: &str, types: &[u32]) -> Vec<u8> {
    let mut body = [cstring(name), cstring(sql)].concat();
    body.extend((types.len() as u16).to_be_bytes());
    types.iter().for_each(|oid| body.extend(oid.to_be_bytes()));
    message(b'P', &body)
}

/// Text parameters, text results.
pub fn bind(portal: &str, statement: &str, values: &[&str]) -> Vec<u8> {
    let values: Vec<_> = values.iter().map(|value| Some(value.as_bytes())).collect();
    bind_in(portal, statement, &[], &values, &[])
}

/// Formats are 0 for text and 1 for binary: none, one for all, or one for each.
pub fn bind_in(portal: &str, statement: &str, formats: &[u16], values: &[Option<&[u8]>], results: &[u16]) -> Vec<u8> {
    let mut body = [cstring(portal), cstring(statement)].concat();
    put_formats(&mut body, formats);
    put_values(&mut body, values);
    put_formats(&mut body, results);
    message(b'B', &body)
}

pub fn describe_statement(name: &str) -> Vec<u8> {
    target(b'D', b'S', name)
}

pub fn describe_portal(name: &str) -> Vec<u8> {
    target(b'D', b'P', name)
}

pub fn close_statement(name: &str) -> Vec<u8> {
    target(b'C', b'S', name)
}

pub fn close_portal(name: &str) -> Vec<u8> {
    target(b'C', b'P', name)
}

/// At most `rows` rows; 0 for all.
pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
    message(b'E', &[&cstring(portal)[..], &rows.to_be_bytes()].concat())
}

pub fn sync() -> Vec<u8> {
    message(b'S', b"")
}

pub fn flush() -> Vec<u8> {
    message(b'H', b"")
}

pub fn terminate() -> Vec<u8> {
    message(b'X', b"")
}

/// Binary arguments, binary result.
pub fn function_call(oid: u32, arguments: &[Option<&[u8]>]) -> Vec<u8> {
    let mut body = oid.to_be_bytes().to_vec();
    put_formats(&mut body, &[1]);
    put_values(&mut body, arguments);
    body.extend(1u16.to_be_bytes());
    message(b'F', &body)
}

pub fn copy_data(data: &str) -> Vec<u8> {
    message(b'd', data.as_bytes())
}

pub fn copy_done() -> Vec<u8> {
    message(b'c', b"")
}

pub fn copy_fail(reason: &str) -> Vec<u8> {
    message(b'f', &cstring(reason))
}

/// `Parse`, `Bind`, `Execute` of the unnamed statement, without `Sync`.
pub fn run(sql: &str, values: &[&str]) -> Vec<u8> {
    [parse("", sql), bind("", "", values), execute("", 0)].concat()
}

/// The same as a batch of its own.
pub fn batch(sql: &str, values: &[&str]) -> Vec<u8> {
    [run(sql, values), sync()].concat()
}

/// `Bind` and `Execute` of a statement with a name, as a batch.
pub fn again(statement: &str, values: &[&str]) -> Vec<u8> {
    [bind("", statement, values), execute("", 0), sync()].concat()
}

fn target(tag: u8, kind: u8, name: &str) -> Vec<u8> {
    message(tag, &[&[kind][..], &cstring(name)].concat())
}

fn put_formats(body: &mut Vec<u8>, formats: &[u16]) {
    body.extend((formats.len() as u16).to_be_bytes());
    formats.iter().for_each(|format| body.extend(format.to_be_bytes()));
}

fn put_values(body: &mut Vec<u8>, values: &[Option<&[u8]>]) {
    body.extend((values.len() as u16).to_be_bytes());
    for value in values {
        match value {
            Some(value) => {
                body.extend((value.len() as u32).to_be_bytes());
                body.extend(*value);
            }
            None => body.extend((-1i32).to_be_bytes()),
        }
    }
}

fn cstring(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}
