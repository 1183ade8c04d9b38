//! What a replica of the key-value store was given and answered, for people.

use bytes::Bytes;
use quorate_core::kv::{Command, Outcome, Response};

/// In a line.
pub(super) fn applied(command: &Bytes, response: &Bytes) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let asked = match Command::decode(command) {
        Ok(Command::Put { key, document }) => format!("put {}={}", text(&key), text(&document.bytes())),
        Ok(Command::Delete { key }) => format!("delete {}", text(&key)),
        Err(_) => format!("a command of {} B", command.len()),
    };
    match Response::decode(response) {
        Ok(Response { revision, outcome: Outcome::Put { create_revision, version } }) => {
            format!("{asked} → revision {revision}, created at {create_revision}, version {version}")
        }
        Ok(Response { revision, outcome: Outcome::Delete { deleted: false } }) => {
            format!("{asked} → nothing there, revision {revision}")
        }
        Ok(Response { revision, .. }) => format!("{asked} → revision {revision}"),
        Err(_) => format!("{asked} → an answer of {} B", response.len()),
    }
}
