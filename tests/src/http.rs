//! A blocking HTTP/1.1 client that says how a request ended, for as much as its sender can know.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// The most that is read of a body, in bytes.
const BODY_BYTES_MAX: usize = 64 << 20;
const HEADERS_MAX: usize = 100;

/// Where the clients of all tests connect.
pub fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(seen, _)| seen == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body in UTF-8")
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }

    /// The name of the problem, if it is one.
    pub fn problem(&self) -> Option<String> {
        (self.header("content-type")? == "application/problem+json").then_some(())?;
        self.json()["type"].as_str()?.strip_prefix("urn:quorate:problem:").map(str::to_owned)
    }

    /// Reads one answer, to its end.
    ///
    /// # Errors
    /// If the connection ends or times out before, or if it is no HTTP.
    pub fn read(stream: &mut impl BufRead) -> io::Result<Self> {
        let status_line = line(stream)?;
        let status = status_line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.ok_or_else(|| bad(format!("not a status line: {status_line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = line(stream)?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| bad(format!("not a header: {line:?}")))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
            if headers.len() > HEADERS_MAX {
                return Err(bad("too many headers".to_owned()));
            }
        }
        let mut response = Self { status, headers, body: Vec::new() };
        // Every answer of this server has a length: none of them is a stream.
        let length = response.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        if length > BODY_BYTES_MAX {
            return Err(bad(format!("a body of {length} bytes")));
        }
        response.body.resize(length, 0);
        stream.read_exact(&mut response.body)?;
        Ok(response)
    }
}

fn line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if stream.take(64 << 10).read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let text = line.strip_suffix("\r\n").ok_or_else(|| bad(format!("a line without an end: {line:?}")))?;
    Ok(text.to_owned())
}

fn bad(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// There was no connection: no byte of the request was sent.
    NotSent(io::Error),
    /// The connection was lost, or the time was up, after something was sent: the request may have had its effect.
    Lost(io::Error),
}

/// A client with at most one connection, which it keeps alive.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    timeout: Duration,
    connection: Option<BufReader<TcpStream>>,
}

impl Client {
    /// A client of the server at `port` that waits `timeout` for each answer.
    pub fn new(port: u16, timeout: Duration) -> Self {
        Self { address: at(port), timeout, connection: None }
    }

    /// Sends a request and waits for the answer.
    ///
    /// # Errors
    /// See [`Failure`]. The next request opens a new connection.
    pub fn send(&mut self, method: &str, target: &str, body: Option<&[u8]>) -> Result<Response, Failure> {
        let deadline = Instant::now() + self.timeout;
        let mut connection = match self.connection.take().filter(is_open) {
            Some(connection) => connection,
            None => BufReader::new(connect(self.address, self.timeout).map_err(Failure::NotSent)?),
        };
        let response = exchange(&mut connection, &request(method, target, body), deadline).map_err(Failure::Lost)?;
        if response.header("connection") != Some("close") {
            self.connection = Some(connection);
        }
        Ok(response)
    }

    /// `GET`.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn get(&mut self, target: &str) -> Result<Response, Failure> {
        self.send("GET", target, None)
    }
}

/// One `GET` on a connection of its own.
///
/// # Errors
/// Why there is no answer.
pub fn get(port: u16, target: &str) -> Result<Response, String> {
    Client::new(port, Duration::from_secs(10)).get(target).map_err(|failure| format!("{failure:?}"))
}

/// The bytes of a request.
pub fn request(method: &str, target: &str, body: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\n").into_bytes();
    if let Some(body) = body {
        bytes.extend(format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()).into_bytes());
    }
    bytes.extend(b"\r\n");
    bytes.extend(body.unwrap_or_default());
    bytes
}

/// A connection whose reads and writes give up after `timeout`.
///
/// # Errors
/// If there is none.
pub fn connect(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    Ok(stream)
}

/// Whether an idle connection is still good. That the server has closed it can be known before anything is sent.
fn is_open(connection: &BufReader<TcpStream>) -> bool {
    let stream = connection.get_ref();
    let quiet = || -> io::Result<bool> {
        stream.set_nonblocking(true)?;
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        Ok(matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock))
    };
    connection.buffer().is_empty() && quiet().unwrap_or(false)
}

fn exchange(connection: &mut BufReader<TcpStream>, request: &[u8], deadline: Instant) -> io::Result<Response> {
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    connection.get_ref().set_read_timeout(Some(left))?;
    connection.get_mut().write_all(request)?;
    Response::read(connection)
}
