//! A user of the host who calls the agent more often, or with more data, than any use requires.
//!
//!     test-stranger --method METHOD [--name-bytes N] [--connections N] [--calls N] [--unanswered N]
//!         opens these connections to the system bus and sends on each this number of calls
//!         of a method of `org.ondemand1.Manager`, or of `GetManagedObjects`, at once, before it reads a reply, with a
//!         name of this length, or of the service `test`. Prints for each error's name (`ok` for a reply) how many
//!         there were, when all but the unanswered ones are there. With `--stays` it then waits for the end of its
//!         standard input.
//!
//! The bus's wire format is written here: a library would keep to limits of its own.

use std::{
    collections::BTreeMap,
    env,
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    time::Duration,
};

use nix::unistd::geteuid;

const BUS: &str = "/run/dbus/system_bus_socket";
/// A method of another interface than the others.
const OBJECTS: &str = "GetManagedObjects";
/// How long a reply may take: other work may keep the machine busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Types of messages, and codes of header fields (the D-Bus specification, "Message Format").
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

fn main() -> io::Result<()> {
    let number = |name: &str, otherwise: usize| {
        option(name).map_or(otherwise, |value| value.parse().expect(name))
    };
    let method = option("--method").expect("--method");
    let service = match number("--name-bytes", 0) {
        0 => "test".to_owned(),
        length => "x".repeat(length),
    };
    let (connections, calls) = (number("--connections", 1), number("--calls", 1));
    let mut body = Vec::new();
    // `Hold` has a second argument: until it is released.
    let signature = match method.as_str() {
        "Status" | OBJECTS => "",
        "Hold" => {
            string(&mut body, &service);
            align(&mut body, 8);
            body.extend(0_u64.to_le_bytes());
            "st"
        }
        _ => {
            string(&mut body, &service);
            "s"
        }
    };
    let mut open = Vec::new();
    for _ in 0..connections {
        let mut stream = connect()?;
        let mut burst = Vec::new();
        for serial in 0..calls {
            let serial = 2 + serial as u32;
            burst.extend(call("org.ondemand1", &method, serial, signature, &body));
        }
        stream.write_all(&burst)?;
        open.push(stream);
    }
    let unanswered = number("--unanswered", 0);
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for stream in &mut open {
        for _ in unanswered..calls {
            *seen.entry(reply(stream)?).or_default() += 1;
        }
    }
    for (name, count) in seen {
        println!("{name} {count}");
    }
    if env::args().any(|word| word == "--stays") {
        io::stdin().read_to_end(&mut Vec::new())?;
    }
    Ok(())
}

fn option(name: &str) -> Option<String> {
    env::args().skip_while(|word| word != name).nth(1)
}

/// Connects, authenticates as the process's user, and says hello.
fn connect() -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(BUS)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let user: String = geteuid()
        .to_string()
        .bytes()
        .map(|digit| format!("{digit:02x}"))
        .collect();
    stream.write_all(format!("\0AUTH EXTERNAL {user}\r\n").as_bytes())?;
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        line.push(byte[0]);
    }
    assert!(line.starts_with(b"OK "), "{line:?}");
    stream.write_all(b"BEGIN\r\n")?;
    stream.write_all(&call("org.freedesktop.DBus", "Hello", 1, "", &[]))?;
    assert_eq!(reply(&mut stream)?, "ok");
    Ok(stream)
}

/// A method call, to the bus itself or to the agent.
fn call(to: &str, member: &str, serial: u32, signature: &str, body: &[u8]) -> Vec<u8> {
    let path = format!("/{}", to.replace('.', "/"));
    let interface = match to {
        "org.ondemand1" if member == OBJECTS => "org.freedesktop.DBus.ObjectManager",
        "org.ondemand1" => "org.ondemand1.Manager",
        _ => to,
    };
    let mut fields = Vec::new();
    for (code, kind, value) in [
        (PATH, "o", path.as_str()),
        (INTERFACE, "s", interface),
        (MEMBER, "s", member),
        (DESTINATION, "s", to),
    ] {
        align(&mut fields, 8);
        fields.push(code);
        short(&mut fields, kind);
        string(&mut fields, value);
    }
    if !signature.is_empty() {
        align(&mut fields, 8);
        fields.push(SIGNATURE);
        short(&mut fields, "g");
        short(&mut fields, signature);
    }
    // Little-endian, a method call, no flags, version 1.
    let mut message = vec![b'l', 1, 0, 1];
    message.extend((body.len() as u32).to_le_bytes());
    message.extend(serial.to_le_bytes());
    message.extend((fields.len() as u32).to_le_bytes());
    message.extend(fields);
    align(&mut message, 8);
    message.extend(body);
    message
}

/// The next reply: `ok`, or the error's name. Signals are passed over.
fn reply(stream: &mut UnixStream) -> io::Result<String> {
    loop {
        let mut head = [0; 16];
        stream.read_exact(&mut head)?;
        assert_eq!(head[0], b'l', "a little-endian bus");
        let length = |at: usize| {
            u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize
        };
        let mut rest = vec![0; length(12).next_multiple_of(8) + length(4)];
        stream.read_exact(&mut rest)?;
        match head[1] {
            RETURN => return Ok("ok".into()),
            ERROR => return Ok(error_name(&rest[..length(12)])),
            _ => {}
        }
    }
}

/// The field `ERROR_NAME` of a header: its code, the signature `s`, length and text.
fn error_name(fields: &[u8]) -> String {
    let start = fields
        .windows(4)
        .step_by(8)
        .position(|field| field == [ERROR_NAME, 1, b's', 0])
        .expect("an error has a name")
        * 8;
    let text = &fields[start + 8..];
    let end = text.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&text[..end.expect("its end")]).into_owned()
}

fn align(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn string(bytes: &mut Vec<u8>, text: &str) {
    align(bytes, 4);
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.push(0);
}

fn short(bytes: &mut Vec<u8>, signature: &str) {
    bytes.push(signature.len() as u8);
    bytes.extend(signature.as_bytes());
    bytes.push(0);
}
