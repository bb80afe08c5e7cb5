//! `sheave monitor`: while somebody watches, programs that tell of each decision are swapped in; afterwards out again.
//!
//! Must not know how an event is shown.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::AsyncReadExt as _,
    net::unix::{OwnedReadHalf, OwnedWriteHalf},
    sync::{Mutex as AsyncMutex, OwnedMutexGuard},
    task,
    time::{Instant, timeout},
};
use tracing::{error, info};

use super::{protocol::Reply, server::send, state::AgentState, views::EventView};
use crate::{
    dataplane::{DataPlane, EventStream},
    reconcile::FrontendNames,
};

/// Names of new Services are asked for at most so often.
const NAMES_INTERVAL: Duration = Duration::from_secs(1);
/// A watcher that does not read for so long is dropped, so that it cannot hold the ring buffer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Lets one watch at a time: the ring buffer has one reader.
#[derive(Clone)]
pub(super) struct Monitors {
    state: Arc<AgentState>,
    turn: Arc<AsyncMutex<()>>,
}

impl Monitors {
    pub(super) fn new(state: Arc<AgentState>) -> Self {
        Self { state, turn: Arc::new(AsyncMutex::new(())) }
    }

    /// Streams events until the watcher goes away.
    pub(super) async fn stream(&self, read: OwnedReadHalf, mut write: OwnedWriteHalf) -> io::Result<()> {
        let Ok(turn) = Arc::clone(&self.turn).try_lock_owned() else {
            return send(&mut write, &Reply::Error("another `sheave monitor` is at work".to_owned())).await;
        };
        match Switch::on(Arc::clone(&self.state.data_plane), turn).await {
            Ok((switch, events)) => {
                let names =
                    Names { state: &self.state, known: self.state.names().await, asked: Instant::now() };
                let streamed = forward(events, names, read, &mut write).await;
                drop(switch);
                streamed
            }
            Err(error) => send(&mut write, &Reply::Error(error)).await,
        }
    }
}

async fn forward(
    mut events: EventStream,
    mut names: Names<'_>,
    mut read: OwnedReadHalf,
    write: &mut OwnedWriteHalf,
) -> io::Result<()> {
    send(write, &Reply::Monitoring).await?;
    let mut nothing = [0; 1];
    loop {
        let event = tokio::select! {
            event = events.next() => event.map_err(io::Error::other)?,
            // The watcher says nothing more: bytes or not, it is gone.
            _ = read.read(&mut nothing) => return Ok(()),
        };
        let view = names.name(&event).await;
        timeout(PATIENCE, send(write, &Reply::Event(Box::new(view)))).await??;
    }
}

/// Whose the frontends are, asked for again when one is unknown.
struct Names<'a> {
    state: &'a AgentState,
    known: FrontendNames,
    asked: Instant,
}

impl Names<'_> {
    async fn name(&mut self, event: &proxy_common::SocketEvent) -> EventView {
        let view = EventView::new(event, &self.known);
        if view.service.is_some() || self.asked.elapsed() < NAMES_INTERVAL {
            return view;
        }
        self.known = self.state.names().await;
        self.asked = Instant::now();
        EventView::new(event, &self.known)
    }
}

/// The programs tell of decisions as long as this lives.
struct Switch {
    data_plane: Arc<Mutex<DataPlane>>,
    /// Given back only when the programs are silent again.
    turn: Option<OwnedMutexGuard<()>>,
}

impl Switch {
    async fn on(
        data_plane: Arc<Mutex<DataPlane>>,
        turn: OwnedMutexGuard<()>,
    ) -> Result<(Self, EventStream), String> {
        let handle = Arc::clone(&data_plane);
        let stream = tokio::runtime::Handle::current();
        let switched = task::spawn_blocking(move || {
            let _runtime = stream.enter();
            let mut data_plane = handle.lock().unwrap_or_else(PoisonError::into_inner);
            let events = data_plane.events().map_err(|error| error.to_string())?;
            data_plane.set_monitor(true).map_err(|error| error.to_string())?;
            Ok::<_, String>(events)
        });
        let events = switched.await.map_err(|error| error.to_string())??;
        info!("monitor: the programs tell of each decision");
        Ok((Self { data_plane, turn: Some(turn) }, events))
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        let data_plane = Arc::clone(&self.data_plane);
        let turn = self.turn.take();
        task::spawn_blocking(move || {
            let mut data_plane = data_plane.lock().unwrap_or_else(PoisonError::into_inner);
            match data_plane.set_monitor(false) {
                Ok(()) => info!("monitor: the programs are silent again"),
                Err(error) => {
                    error!(%error, "the programs go on telling of each decision; restart the agent");
                }
            }
            drop(turn);
        });
    }
}
