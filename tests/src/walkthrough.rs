//! The commands of other systems' documents, run as they are written there against real nodes.
//!
//! Three things differ from a terminal: ports that the document names are replaced by free ones, the program by ours with
//! what `Walkthrough` is told to put before its flags, and `curl` by a few lines that know the flags which occur.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use crate::binary::quorate;
use crate::directory::Directory;
use crate::eventually::{DEADLINE, eventually};
use crate::http::{Client, Failure, Response};
use crate::ports::free_port;
use crate::process::Process;

/// A document's commands, in a directory of their own.
#[derive(Debug)]
pub struct Walkthrough {
    directory: Directory,
    /// What the program is given before the flags of the document.
    flags: Vec<String>,
    ports: BTreeMap<u16, u16>,
}

impl Walkthrough {
    /// A document that names these ports.
    pub fn new(test: &str, flags: &[&str], ports: &[u16]) -> Self {
        Self {
            directory: Directory::new(test),
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            ports: ports.iter().map(|port| (*port, free_port())).collect(),
        }
    }

    /// The directory that everything runs in.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The port that stands for one of the document's.
    pub fn port(&self, port: u16) -> u16 {
        self.ports[&port]
    }

    /// The document's text with our ports.
    pub fn ours(&self, text: &str) -> String {
        let mut ours = String::new();
        let mut rest = text;
        while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
            let digits = rest[start..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - start);
            let (number, after) = rest[start..].split_at(digits);
            ours += &rest[..start];
            match number.parse().ok().and_then(|port: u16| self.ports.get(&port)) {
                Some(port) => ours += &port.to_string(),
                None => ours += number,
            }
            rest = after;
        }
        ours + rest
    }

    /// Starts a line of the document: variables, a program, flags.
    pub fn start(&self, name: &str, line: &str) -> Process {
        let mut command = quorate();
        self.line(&mut command, line);
        self.run(name, command)
    }

    /// Starts a command in the walkthrough's directory; the log has the name.
    pub fn run(&self, name: &str, mut command: Command) -> Process {
        command.current_dir(self.directory.path());
        Process::start(command, &self.directory.path().join(format!("{name}.log")))
    }

    /// Puts the variables and flags of a line into a command.
    pub fn line(&self, command: &mut Command, line: &str) {
        let words = words(&self.ours(line));
        let is_variable = |word: &&String| word.split_once('=').is_some_and(|(name, _)| !name.starts_with('-'));
        let variables = words.iter().take_while(is_variable).count();
        for (name, value) in words[..variables].iter().filter_map(|word| word.split_once('=')) {
            command.env(name, value);
        }
        // The program's name is the word between.
        command.args(&self.flags).args(&words[variables + 1..]);
    }

    /// Runs a `curl` of the document as soon as somebody listens there.
    pub fn curl(&self, line: &str) -> Response {
        let request = Curl::parse(&self.ours(line));
        eventually(line, DEADLINE, || match request.send() {
            Ok(response) => Ok(response),
            Err(Failure::NotSent(error)) => Err(error.to_string()),
            // Whatever became of it, asking again changes nothing.
            Err(Failure::Lost(error)) if request.method == "GET" => Err(error.to_string()),
            Err(Failure::Lost(error)) => panic!("{line}: {error}"),
        })
    }

    /// Runs a `curl` of the document, as its reader would, until its answer is right.
    pub fn curl_until(&self, line: &str, status: u16, body: &str) {
        eventually(line, DEADLINE, || {
            let response = self.curl(line);
            match (response.status, response.text().trim_end()) == (status, body) {
                true => Ok(()),
                false => Err(format!("{} {}", response.status, response.text())),
            }
        });
    }
}

/// A shell's words: apart where there is a space, but not between quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            (None, ' ') => words.push(String::new()),
            (_, c) => words.last_mut().expect("there is one").push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

/// What a `curl` command asks for.
struct Curl {
    method: String,
    port: u16,
    target: String,
    body: Option<String>,
}

impl Curl {
    fn parse(line: &str) -> Self {
        let words = words(line);
        let mut words = words.iter().map(String::as_str);
        assert_eq!(words.next(), Some("curl"), "{line}");
        let (mut method, mut url, mut body) = (None, None, None);
        while let Some(word) = words.next() {
            match word {
                // There are no redirects here, and nothing is shown.
                "-L" | "-s" => {}
                "-d" => body = words.next().map(str::to_owned),
                "-X" => method = words.next().map(str::to_owned),
                word if word.starts_with("-X") => method = Some(word[2..].to_owned()),
                word if word.starts_with('-') => panic!("{line}: {word} is not known here"),
                word => url = Some(word.to_owned()),
            }
        }
        let url = url.unwrap_or_else(|| panic!("{line}: no address"));
        let (host, target) = url.trim_start_matches("http://").split_once('/').expect("a path");
        let port = host.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port");
        let default = if body.is_some() { "POST" } else { "GET" };
        Self { method: method.unwrap_or_else(|| default.to_owned()), port, target: format!("/{target}"), body }
    }

    fn send(&self) -> Result<Response, Failure> {
        let mut client = Client::new(self.port, Duration::from_secs(10));
        client.send(&self.method, &self.target, self.body.as_deref().map(str::as_bytes))
    }
}
