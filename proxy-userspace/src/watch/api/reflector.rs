//! Lists one kind of object, then watches it, for ever.
//!
//! Own code instead of `kube::runtime::watcher`, for what that hides or lacks: bookmarks and renewals as proof of life,
//! an end to a list on which the server falls silent, plain lists where the server offers no streaming lists, several
//! servers, a pause between watches that end at once. Must not know any particular kind.
//!
//! States: without a `position` (a resourceVersion) the next round lists, streaming or page by page; with one it
//! watches from there. A watch that the server ends in good order is renewed at once; after a failure comes a pause,
//! and the position stays unless the server says that it no longer knows it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt, stream::BoxStream};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, WatchEvent, WatchParams},
    core::Status,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::{
    backoff::Backoff,
    connect::{self, Servers},
    kinds::{Selection, Selectors, Watched},
};
use crate::watch::{KubeSettings, SILENCE_MARGIN, WatchStatus};

/// Annotation of the bookmark that ends a streaming list (KEP-3157).
const LIST_END: &str = "k8s.io/initial-events-end";
/// A streaming list that says nothing for this time comes from a server that does not know them.
const STREAM_SILENCE: Duration = Duration::from_secs(10);
/// Objects per page of a plain list.
const PAGE: u32 = 500;
/// A watch that lasts this long has worked: the next failure is the first again.
const WORKED: Duration = Duration::from_secs(5);
/// A watch that ends sooner, in whatever order, is a failure, or a broken proxy would make us spin.
const TOO_SHORT: Duration = Duration::from_millis(500);
/// After so many failures in a row the credentials are read again.
const RELOAD_AFTER: u32 = 4;

type Events<K> = BoxStream<'static, kube::Result<WatchEvent<K>>>;

/// Why a round ended early.
#[derive(Debug)]
enum Failure {
    /// Nobody listens any more.
    Unheard,
    /// The request or the stream failed.
    Api(kube::Error),
    /// The server said nothing for too long.
    Silent,
    /// The server ended the watch as soon as it began.
    Short,
    /// The server ended a streaming list before it was complete.
    Incomplete,
}

impl From<kube::Error> for Failure {
    fn from(error: kube::Error) -> Self {
        Self::Api(error)
    }
}

/// The loop of one kind.
pub(super) struct Reflector<K: Watched> {
    settings: KubeSettings,
    selectors: Selectors,
    /// At least one.
    clients: Servers,
    /// Rotates over `clients`.
    turn: usize,
    tx: mpsc::Sender<K::Event>,
    status: Arc<WatchStatus>,
    backoff: Backoff,
    failures: u32,
    position: Option<String>,
    /// When it last listed.
    listed: Option<Instant>,
    /// Whether to try streaming lists.
    streaming: bool,
    kind: std::marker::PhantomData<fn() -> K>,
}

impl<K: Watched> Reflector<K> {
    pub(super) fn new(
        settings: &KubeSettings,
        selection: &Selection,
        clients: Servers,
        tx: &mpsc::Sender<K::Event>,
        status: &Arc<WatchStatus>,
    ) -> Self {
        let mut settings = settings.clone();
        settings.watch_timeout = settings.watch_timeout.max(Duration::from_secs(1));
        Self {
            selectors: K::selectors(selection),
            settings,
            clients,
            turn: 0,
            tx: tx.clone(),
            status: Arc::clone(status),
            backoff: Backoff::new(),
            failures: 0,
            position: None,
            listed: None,
            streaming: true,
            kind: std::marker::PhantomData,
        }
    }

    /// Until the receiver is dropped.
    pub(super) async fn run(mut self) {
        let closed = self.tx.clone();
        tokio::select! {
            () = closed.closed() => {}
            () = self.rounds() => {}
        }
    }

    async fn rounds(&mut self) {
        loop {
            match self.round().await {
                Ok(()) => {}
                Err(Failure::Unheard) => return,
                Err(failure) => self.recover(failure).await,
            }
        }
    }

    async fn round(&mut self) -> Result<(), Failure> {
        let api = Api::all(self.client()?);
        match self.position.clone() {
            Some(position) => self.watch(&api, &position).await,
            None if self.streaming => self.list_streaming(&api).await,
            None => self.list_pages(&api).await,
        }
    }

    fn client(&self) -> Result<Client, Failure> {
        let clients = self.clients.borrow();
        let turn = self.turn.checked_rem(clients.len()).unwrap_or_default();
        clients.get(turn).cloned().ok_or(Failure::Silent)
    }

    /// One watch from `position` until the server ends it.
    async fn watch(&mut self, api: &Api<K>, position: &str) -> Result<(), Failure> {
        let events = self.open(api, position, false).await?;
        self.status.clear_error(K::SOURCE);
        self.follow(events).await
    }

    /// A list as the first events of a watch (KEP-3157), then that watch.
    async fn list_streaming(&mut self, api: &Api<K>) -> Result<(), Failure> {
        let mut events = match self.open(api, "", true).await {
            Err(Failure::Api(kube::Error::Api(status))) if matches!(status.code, 400 | 404 | 405 | 422) => {
                tracing::debug!(kind = K::NAME, reason = status.message, "no streaming lists here");
                self.streaming = false;
                return Ok(());
            }
            opened => opened?,
        };
        let mut all = BTreeMap::new();
        loop {
            let Ok(next) = timeout(STREAM_SILENCE, events.next()).await else {
                self.streaming = false;
                return Err(Failure::Silent);
            };
            self.status.alive(K::SOURCE);
            let Some(next) = next else {
                // It takes longer than the server, or a proxy before it, lets a response take: pages are short.
                self.streaming = false;
                return Err(Failure::Incomplete);
            };
            match next {
                Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                    all.insert(key(&object), object.model());
                }
                Ok(WatchEvent::Deleted(object)) => {
                    all.remove(&key(&object));
                }
                Ok(WatchEvent::Bookmark(mark)) if mark.metadata.annotations.contains_key(LIST_END) => {
                    self.listed(all.into_values().collect(), mark.metadata.resource_version).await?;
                    return self.follow(events).await;
                }
                Ok(WatchEvent::Bookmark(_)) => {}
                Ok(WatchEvent::Error(status)) => return Err(kube::Error::Api(status).into()),
                Err(error) => self.tolerate(error)?,
            }
        }
    }

    /// A list page by page. Reads at least as new as the moment of the request.
    async fn list_pages(&mut self, api: &Api<K>) -> Result<(), Failure> {
        let mut params = ListParams {
            label_selector: self.selectors.labels.clone(),
            field_selector: self.selectors.fields.clone(),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        let mut all = Vec::new();
        loop {
            let page = self.answer(api.list(&params)).await?;
            self.status.alive(K::SOURCE);
            all.extend(page.items.into_iter().map(K::model));
            params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                return self.listed(all, page.metadata.resource_version.unwrap_or_default()).await;
            }
        }
    }

    async fn listed(&mut self, all: Vec<K::Model>, position: String) -> Result<(), Failure> {
        tracing::debug!(kind = K::NAME, count = all.len(), position, "listed");
        self.send(K::listed(all)).await?;
        self.position = Some(position);
        self.listed = Some(Instant::now());
        self.status.listed(K::SOURCE);
        self.status.clear_error(K::SOURCE);
        Ok(())
    }

    /// Starts a watch; with `list`, one that begins with all there is.
    async fn open(&mut self, api: &Api<K>, position: &str, list: bool) -> Result<Events<K>, Failure> {
        let seconds = u32::try_from(self.settings.watch_timeout.as_secs()).unwrap_or(u32::MAX);
        let params = WatchParams {
            label_selector: self.selectors.labels.clone(),
            field_selector: self.selectors.fields.clone(),
            timeout: Some(seconds),
            bookmarks: true,
            send_initial_events: list,
        };
        let events = self.answer(api.watch(&params, position)).await?.boxed();
        self.status.alive(K::SOURCE);
        Ok(events)
    }

    /// Hands on what a watch says until the server ends it in good order.
    async fn follow(&mut self, mut events: Events<K>) -> Result<(), Failure> {
        let start = Instant::now();
        let silence = self.silence();
        loop {
            let next = timeout(silence, events.next()).await.map_err(|_| Failure::Silent)?;
            if start.elapsed() >= WORKED {
                self.backoff.reset();
                self.failures = 0;
            }
            match next {
                None if start.elapsed() < TOO_SHORT => return Err(Failure::Short),
                None => return Ok(()),
                Some(event) => self.take(event).await?,
            }
        }
    }

    async fn take(&mut self, event: kube::Result<WatchEvent<K>>) -> Result<(), Failure> {
        let (version, event) = match event {
            Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                (object.resource_version(), Some(K::applied(object.model())))
            }
            Ok(WatchEvent::Deleted(object)) => (object.resource_version(), Some(object.deleted())),
            Ok(WatchEvent::Bookmark(mark)) => (Some(mark.metadata.resource_version), None),
            Ok(WatchEvent::Error(status)) => return Err(kube::Error::Api(status).into()),
            Err(error) => return self.tolerate(error),
        };
        if let Some(event) = event {
            self.send(event).await?;
        }
        self.position = version.filter(|version| !version.is_empty()).or_else(|| self.position.take());
        self.status.alive(K::SOURCE);
        Ok(())
    }

    async fn send(&self, event: K::Event) -> Result<(), Failure> {
        self.tx.send(event).await.map_err(|_| Failure::Unheard)
    }

    /// An object that cannot be decoded spoils nothing but itself; the others of the stream still come.
    fn tolerate(&self, error: kube::Error) -> Result<(), Failure> {
        let reason = match &error {
            kube::Error::SerdeError(error) => error.to_string(),
            // kube reads every line that is no event as a Status, and all fields of that are optional.
            kube::Error::Api(status) if status.code == 0 && status.status.is_none() => {
                "not as this API defines it".into()
            }
            _ => return Err(error.into()),
        };
        tracing::warn!(kind = K::NAME, reason, "an object of the API server cannot be read");
        self.status.set_error(K::SOURCE, format!("an object cannot be read: {reason}"));
        Ok(())
    }

    /// The answer to a request, or that there was none.
    async fn answer<T>(&self, request: impl Future<Output = kube::Result<T>>) -> Result<T, Failure> {
        let answer = timeout(self.silence(), request).await.map_err(|_| Failure::Silent)?;
        Ok(answer?)
    }

    fn silence(&self) -> Duration {
        self.settings.watch_timeout + SILENCE_MARGIN
    }

    /// Notes a failure, decides what to do differently, and pauses.
    async fn recover(&mut self, failure: Failure) {
        let mut unauthorized = false;
        if let Failure::Api(kube::Error::Api(status)) = &failure {
            unauthorized = status.code == 401;
            if position_is_unknown(status) {
                self.forget_position();
            }
        }
        let reason = describe(&failure);
        let pause = self.backoff.pause();
        tracing::warn!(kind = K::NAME, %reason, ?pause, "watch failed; what we have stays in force");
        self.status.set_error(K::SOURCE, reason);
        self.status.restarted(K::SOURCE);
        self.failures = self.failures.saturating_add(1);
        self.turn = self.turn.wrapping_add(1);
        tokio::time::sleep(pause).await;
        if unauthorized || self.failures.is_multiple_of(RELOAD_AFTER) {
            self.reload().await;
        }
    }

    /// The next round lists: soon, for the server is there, unless it forgets again and again what it has just told.
    fn forget_position(&mut self) {
        self.position = None;
        if self.listed.is_some_and(|listed| listed.elapsed() >= WORKED) {
            self.backoff.reset();
        }
    }

    /// Reads the credentials again: they may have been renewed on disk.
    async fn reload(&mut self) {
        match connect::clients(&self.settings).await {
            // Of servers that were looked for: none of them is there, so it may be any of those we know.
            Ok(clients) if clients.borrow().is_empty() => {}
            Ok(clients) => self.clients = clients,
            Err(error) => {
                tracing::warn!(%error, "cannot read the Kubernetes configuration again; using the old one");
            }
        }
    }
}

fn key<K: Watched>(object: &K) -> (Option<String>, String) {
    (object.namespace(), object.name_any())
}

/// The server has forgotten the position (compacted), or never knew it (restored from a backup), or calls it invalid.
fn position_is_unknown(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let mut too_new = causes.filter(|cause| cause.reason == "ResourceVersionTooLarge");
    matches!(status.code, 400 | 410 | 422)
        || matches!(status.reason.as_str(), "Expired" | "Gone")
        || too_new.next().is_some()
}

fn describe(failure: &Failure) -> String {
    match failure {
        Failure::Unheard => "nobody listens".to_owned(),
        Failure::Api(kube::Error::Api(status)) => match status.message.as_str() {
            "" => format!("API server: {} {}", status.code, status.reason),
            message => format!("API server: {message} ({})", status.code),
        },
        Failure::Api(error) => connect::text(error),
        Failure::Silent => "the API server does not answer".to_owned(),
        Failure::Short => "the API server ended the watch as soon as it began".to_owned(),
        Failure::Incomplete => "the API server ended the list before it was complete".to_owned(),
    }
}

#[cfg(test)]
#[path = "reflector_tests.rs"]
mod tests;
