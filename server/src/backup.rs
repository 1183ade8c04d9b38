//! `GET /cluster/snapshot`, `quorate backup` and `quorate restore`.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use axum::body::Body;
use axum::extract::State;
use axum::http::{Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use quorate_core::snapshot::{BackupVerifier, SnapshotError};
use quorate_io::node::exit_code;
use quorate_io::tokio::TokioPlatform;
use quorate_io::{Platform, RestoreError, restore};

use crate::address::Address;
use crate::client;
use crate::config::ServerConfig;
use crate::kv::consistency;
use crate::problem::Problem;
use crate::query::Query;
use crate::router::Api;

/// What is read of a backup at once.
const PIECE_BYTES: usize = 1 << 20;

/// The state with every write that was acknowledged before the request, as a backup; with `consistency=stale` what this
/// node has. A failure on the way breaks the connection off, and what has come by then is not whole.
pub(crate) async fn snapshot<P: Platform>(State(api): State<Api<P>>, uri: Uri) -> Result<Response, Problem> {
    let consistency = consistency(&Query::parse(&uri, &["consistency"])?)?;
    let parts = api.node.backup(consistency).await?;
    let bytes = stream::unfold(parts, |mut parts| async move {
        let bytes = parts.next_bytes().transpose()?;
        Some((bytes, parts))
    });
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"quorate.backup\""),
    ];
    Ok((headers, Body::from_stream(bytes)).into_response())
}

/// Why a backup was not made or not restored: one line, and an exit code.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file is there already, or cannot be read or written.
    #[error("{}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is the matter.
        error: io::Error,
    },
    /// Nobody answers there.
    #[error("{0}; set --api to the API of a node that runs")]
    NoAnswer(String),
    /// The node gave none.
    #[error("{0}")]
    Refused(String),
    /// It came, and is not whole.
    #[error("what {0} sent is not a whole backup: {1}")]
    NotWhole(Address, String),
    /// It cannot be restored.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

impl BackupError {
    /// The exit code for the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Restore(error) => error.exit_code(),
            _ => exit_code::FAILED,
        }
    }
}

/// Gets a backup from a node into a new file, which is there only when it is whole and durable. Returns what to print.
/// If it is `stale`, it is of what that node has, and needs no quorum.
///
/// # Errors
/// See [`BackupError`].
pub async fn back_up(api: &Address, to: &Path, stale: bool) -> Result<String, BackupError> {
    let failed = |error| BackupError::File { path: to.to_owned(), error };
    if to.exists() {
        return Err(failed(io::Error::other("there is such a file already; remove it, or choose another name")));
    }
    let mut name = to.as_os_str().to_owned();
    // Nobody else's: two may be made under one name at once.
    name.push(format!(".{:016x}.part", rand::random::<u64>()));
    let partial = Partial(name.into());
    let mut file = File::create_new(&partial.0).map_err(failed)?;
    let not_whole = |error: SnapshotError| BackupError::NotWhole(api.clone(), error.to_string());
    let (mut verifier, mut len, mut bad) = (BackupVerifier::default(), 0, None);
    let target = if stale { "/cluster/snapshot?consistency=stale" } else { "/cluster/snapshot" };
    let taken = client::download(api, target, |bytes| {
        len += bytes.len();
        verifier.push(bytes).map_err(|error| io::Error::other(bad.insert(error).to_string()))?;
        file.write_all(bytes)
    });
    let taken = taken.await;
    if let Some(error) = bad {
        return Err(not_whole(error));
    }
    match taken {
        Ok(None) => {}
        Ok(Some(refusal)) => {
            return Err(BackupError::Refused(format!("{} ({})", refusal.complaint(), refusal.status)));
        }
        Err(client::ClientError::Taken(error)) => return Err(failed(error)),
        Err(error) => return Err(BackupError::NoAnswer(error.to_string())),
    }
    let pairs = verifier.finish().map_err(not_whole)?;
    file.sync_all().map_err(failed)?;
    fs::rename(&partial.0, to).map_err(failed)?;
    let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
    Ok(format!("{}: {pairs} keys, {len} bytes\n", to.display()))
}

/// A file that goes away unless it was renamed.
struct Partial(PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Makes the data directory of a node that is alone in a new cluster from a backup. Returns what to print.
///
/// # Errors
/// See [`BackupError`].
pub async fn restore_from(path: &Path, config: &ServerConfig) -> Result<String, BackupError> {
    let failed = |error| BackupError::File { path: path.to_owned(), error };
    let file = File::open(path).map_err(failed)?;
    let pieces = stream::unfold(file, |mut file| async move {
        let mut piece = vec![0; PIECE_BYTES];
        match file.read(&mut piece) {
            Ok(0) => None,
            Ok(len) => {
                piece.truncate(len);
                Some((Ok(Bytes::from(piece)), file))
            }
            Err(error) => Some((Err(error), file)),
        }
    });
    let restored = restore(&TokioPlatform::default(), &config.node_config(&[]), pieces).await?;
    let (keys, cluster, node) = (restored.pairs, restored.cluster_id, restored.node_id);
    Ok(format!(
        "restored {keys} keys as node {node}, alone in the new cluster {cluster}; start it, and let others join\n"
    ))
}
