//! A headless Chromium, driven by chromedriver over the WebDriver protocol (W3C), in plain HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

/// Whatever takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(120);

/// A browser with one window. It ends when it is dropped.
pub struct Browser {
    driver: Child,
    port: u16,
    session: String,
}

fn is_installed(command: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|folder| folder.join(command).is_file())
}

impl Browser {
    /// Starts one; `None` if Chromium or its driver is not installed.
    pub fn start() -> Option<Self> {
        if !is_installed("chromium") || !is_installed("chromedriver") {
            return None;
        }
        let mut command = Command::new("chromedriver");
        let mut driver = command.arg("--port=0").stdout(Stdio::piped()).spawn().expect("chromedriver starts");
        let said = BufReader::new(driver.stdout.take().expect("it is piped"));
        let port = said
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("started successfully on port ")?.1.trim_end_matches('.').parse().ok());
        let mut browser = Self { driver, port: port.expect("chromedriver says its port"), session: String::new() };
        let args =
            ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1500,1300"];
        let wanted = json!({ "goog:chromeOptions": { "args": args }, "goog:loggingPrefs": { "browser": "ALL" } });
        let made = browser.ask("POST", "/session", &json!({ "capabilities": { "alwaysMatch": wanted } }));
        browser.session = made["sessionId"].as_str().expect("a session has an id").to_owned();
        browser.post("timeouts", &json!({ "script": 60_000, "pageLoad": 60_000 }));
        Some(browser)
    }

    /// Loads a page and waits for it.
    pub fn open(&self, url: &str) {
        self.post("url", &json!({ "url": url }));
    }

    /// The value of a script's `return`.
    pub fn run(&self, script: &str) -> Value {
        self.post("execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Waits until the script calls `arguments[0]`.
    pub fn run_async(&self, script: &str) {
        // The arguments of arrow functions are those of the function around them.
        self.post("execute/async", &json!({ "script": script, "args": [] }));
    }

    /// Clicks an element as a user does: it must be visible.
    pub fn click(&self, id: &str) {
        let element = self.element(id);
        self.post(&format!("element/{element}/click"), &json!({}));
    }

    /// Replaces the text of an input.
    pub fn type_into(&self, id: &str, text: &str) {
        let element = self.element(id);
        self.post(&format!("element/{element}/clear"), &json!({}));
        self.post(&format!("element/{element}/value"), &json!({ "text": text }));
    }

    /// Presses and lets go of a key, outside of any input.
    pub fn key(&self, key: &str) {
        self.run("document.activeElement.blur()");
        let strokes = ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key }));
        self.post("actions", &json!({ "actions": [{ "type": "key", "id": "keys", "actions": strokes }] }));
    }

    /// The text of an element, as it is in the page.
    pub fn text(&self, id: &str) -> String {
        let text = self.run(&format!("return document.getElementById('{id}').textContent"));
        text.as_str().unwrap_or_else(|| panic!("{id} has text")).to_owned()
    }

    /// What the console has complained about since the last call.
    pub fn severe_log_lines(&self) -> Vec<String> {
        let lines = self.post("se/log", &json!({ "type": "browser" }));
        let lines = lines.as_array().cloned().unwrap_or_default();
        lines.iter().filter(|line| line["level"] == "SEVERE").map(|line| line["message"].to_string()).collect()
    }

    fn element(&self, id: &str) -> String {
        let found = self.post("element", &json!({ "using": "css selector", "value": format!("#{id}") }));
        let reference = found.as_object().and_then(|object| object.values().next());
        reference.and_then(Value::as_str).unwrap_or_else(|| panic!("there is {id}")).to_owned()
    }

    fn post(&self, what: &str, body: &Value) -> Value {
        self.ask("POST", &format!("/session/{}/{what}", self.session), body)
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.exchange(method, path, &body.to_string()).expect("chromedriver answers");
        let answer: Value = serde_json::from_str(&answer).expect("it answers in JSON");
        let value = answer["value"].clone();
        assert!(value.get("error").is_none(), "{method} {path} {body}: {value}");
        value
    }

    fn exchange(&self, method: &str, path: &str, body: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let length = body.len();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}")?;
        let mut answer = BufReader::new(stream);
        let (mut line, mut bytes) = (String::new(), 0);
        while answer.read_line(&mut line)? > 2 {
            if let Some((name, value)) =
                line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            {
                bytes = value.trim().parse().unwrap_or_else(|_| panic!("{name} is a number"));
            }
            line.clear();
        }
        let mut content = vec![0; bytes];
        answer.read_exact(&mut content)?;
        Ok(String::from_utf8_lossy(&content).into_owned())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let _ = self.exchange("DELETE", &format!("/session/{}", self.session), "");
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
