//! The agent's end of the control socket.
//!
//! Must not know how answers are computed.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cni::record::AttachmentId;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        UnixListener, UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    task,
    time::sleep,
};
use tracing::{debug, warn};

use super::{
    monitor::Monitors,
    protocol::{Reply, Request},
    state::AgentState,
};
use crate::{dataplane::MapUsage, reconcile::HostPortsError};

/// Longest request, in bytes.
const LONGEST_REQUEST: u64 = 4096;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The folder or the socket cannot be made.
    #[error("cannot {action} {path}: {error}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

/// Listens on `path` and serves until dropped. A socket that a dead agent left is replaced: the lock says that there
/// is no living one.
///
/// # Errors
/// The socket cannot be made.
pub fn serve(path: &Path, state: Arc<AgentState>) -> Result<impl Future<Output = ()> + use<>, ServerError> {
    let listener = listen(path)?;
    let monitors = Monitors::new(Arc::clone(&state));
    Ok(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    task::spawn(connection(stream, Arc::clone(&state), monitors.clone()));
                }
                Err(error) => {
                    warn!(%error, "cannot accept on the control socket");
                    sleep(Duration::from_secs(1)).await;
                }
            }
        }
    })
}

fn listen(path: &Path) -> Result<UnixListener, ServerError> {
    let failed = |action| move |error| ServerError::Io { action, path: path.to_owned(), error };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed("make the folder of"))?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("replace")(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(failed("listen on"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed("restrict"))?;
    Ok(listener)
}

async fn connection(stream: UnixStream, state: Arc<AgentState>, monitors: Monitors) {
    let (read, mut write) = stream.into_split();
    let request = match read_request(read).await {
        Ok((request, read)) => Ok((request, read)),
        Err(error) => Err(Reply::Error(error)),
    };
    let done = match request {
        Ok((Request::Monitor, read)) => monitors.stream(read, write).await,
        Ok((request, _read)) => send(&mut write, &answer(request, &state).await).await,
        Err(reply) => send(&mut write, &reply).await,
    };
    if let Err(error) = done {
        debug!(%error, "control connection ended");
    }
}

async fn read_request(read: OwnedReadHalf) -> Result<(Request, OwnedReadHalf), String> {
    let mut line = String::new();
    let mut reader = BufReader::new(read).take(LONGEST_REQUEST);
    reader.read_line(&mut line).await.map_err(|error| error.to_string())?;
    let request = serde_json::from_str(&line).map_err(|error| format!("not a request: {error}"))?;
    Ok((request, reader.into_inner().into_inner()))
}

async fn answer(request: Request, state: &AgentState) -> Reply {
    let reply = match request {
        Request::Status => Ok(Reply::Status(Box::new(state.status()))),
        Request::Services => state.views().await.map(|views| Reply::Services(views.services)),
        Request::Backends => state.views().await.map(|views| Reply::Backends(views.backends)),
        Request::Maps => {
            maps(state).await.map(|maps| Reply::Maps(maps.into_iter().map(Into::into).collect()))
        }
        Request::PodPorts { container_id, ifname } => {
            return match state.serve_ports(AttachmentId { container_id, ifname }).await {
                Ok(()) => Reply::Done,
                Err(HostPortsError::Wrong(reason)) => Reply::Refused(reason),
                Err(HostPortsError::NotYet(reason)) => Reply::Error(reason),
            };
        }
        Request::Monitor => Err("monitor is a stream".to_owned()),
    };
    reply.unwrap_or_else(Reply::Error)
}

async fn maps(state: &AgentState) -> Result<Vec<MapUsage>, String> {
    let observer = Arc::clone(&state.observer);
    let usage = task::spawn_blocking(move || observer.usage()).await.map_err(|error| error.to_string())?;
    usage.map_err(|error| error.to_string())
}

/// One line.
pub(super) async fn send(write: &mut OwnedWriteHalf, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    write.write_all(&line).await
}
