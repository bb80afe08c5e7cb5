//! Clients for the API server, from what the user configured.
//!
//! Must not know what is asked of the server.

use std::time::Duration;

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

use tokio::sync::watch;

use super::search;
use crate::watch::{KubeSettings, SILENCE_MARGIN, WatchError};

/// A server that does not take a connection within this time is tried again, or the next one is.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// One client per address of the API server, in the order to try them. Those that are found later are added at the end.
pub(in crate::watch) type Servers = watch::Receiver<Vec<Client>>;

/// Servers that become no more.
pub(super) fn fixed(clients: Vec<Client>) -> Servers {
    watch::channel(clients).1
}

/// The API server's addresses. Reads every file anew.
///
/// None if nobody said where the server is, it was looked for (`super::search`), and no server answers just now;
/// otherwise opens no connection. Tokens in files are read again by the client itself about once a minute; client
/// certificates only here.
pub(in crate::watch) async fn clients(settings: &KubeSettings) -> Result<Servers, WatchError> {
    let (config, is_pod) = configuration(settings).await?;
    let config = tuned(config, settings);
    if !settings.api_servers.is_empty() {
        let clients = settings.api_servers.iter().map(|address| client(at(&config, address)?));
        return Ok(fixed(clients.collect::<Result<_, _>>()?));
    }
    if !is_pod {
        return Ok(fixed(vec![client(config)?]));
    }
    let candidates = search::candidates(&config, settings.known_servers.as_deref());
    search::answering(candidates).await.map_err(|error| WatchError::Configuration(text(&error)))
}

fn tuned(mut config: Config, settings: &KubeSettings) -> Config {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    // A live watch is ended by the server before this passes, so only a dead connection is silent for so long.
    config.read_timeout = Some(settings.watch_timeout + SILENCE_MARGIN + SILENCE_MARGIN);
    // Otherwise the time that a pooled connection was idle would count.
    config.reset_reader_on_write = true;
    // The reflector pauses by itself, with jitter, and tells the status why.
    config.default_retry = false;
    config
}

/// An error with all its causes, in one line.
pub(in crate::watch) fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}

/// What the user configured, or a Pod's service account; and whether it is the latter.
async fn configuration(settings: &KubeSettings) -> Result<(Config, bool), WatchError> {
    let unusable = |error: &dyn std::error::Error| WatchError::Configuration(text(error));
    let options = KubeConfigOptions::default();
    if let Some(path) = &settings.kubeconfig {
        let kubeconfig = Kubeconfig::read_from(path).map_err(|error| unusable(&error))?;
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        return Ok((config.map_err(|error| unusable(&error))?, false));
    }
    if let Ok(config) = Config::from_kubeconfig(&options).await {
        return Ok((config, false));
    }
    // The variables may be missing where the Service's address is of no use anyway.
    match Config::incluster_env().or_else(|_| Config::incluster_dns()) {
        Ok(config) => Ok((config, true)),
        // It says what is wrong with either.
        Err(_) => Config::infer().await.map(|config| (config, false)).map_err(|error| unusable(&error)),
    }
}

fn client(config: Config) -> Result<Client, WatchError> {
    Client::try_from(config).map_err(|error| WatchError::Configuration(text(&error)))
}

/// `config` for the server at `address`.
fn at(config: &Config, address: &str) -> Result<Config, WatchError> {
    let wrong = |reason: &str| WatchError::Address { address: address.to_owned(), reason: reason.to_owned() };
    let mut config = config.clone();
    config.cluster_url = address.parse().map_err(|_| wrong("not a URL"))?;
    match config.cluster_url.scheme_str() {
        Some("https" | "http") => Ok(config),
        _ => Err(wrong("neither https:// nor http://")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBECONFIG: &str = r"
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: k, user: u}}]
clusters: [{name: k, cluster: {server: 'http://127.0.0.1:1'}}]
users: [{name: u, user: {token: secret}}]
";

    fn settings(directory: &tempfile::TempDir, servers: &[&str]) -> KubeSettings {
        let path = directory.path().join("kubeconfig");
        std::fs::write(&path, KUBECONFIG).unwrap();
        KubeSettings {
            kubeconfig: Some(path),
            api_servers: servers.iter().map(|&server| server.to_owned()).collect(),
            ..KubeSettings::default()
        }
    }

    #[tokio::test]
    async fn each_server_of_the_list_gets_a_client_and_without_a_list_the_kubeconfig_decides() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(clients(&settings(&directory, &[])).await.unwrap().borrow().len(), 1);
        let two = settings(&directory, &["https://192.0.2.1:6443", "https://[2001:db8::1]:6443"]);
        assert_eq!(clients(&two).await.unwrap().borrow().len(), 2);
    }

    #[tokio::test]
    async fn an_address_that_is_no_url_is_an_error_that_says_how_to_write_it() {
        let directory = tempfile::tempdir().unwrap();
        for bad in ["192.0.2.1:6443", "ftp://192.0.2.1", "https:// x", "master"] {
            let error = clients(&settings(&directory, &[bad])).await.err().unwrap().to_string();
            assert!(error.contains(bad) && error.contains("https://HOST:PORT"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_kubeconfig_that_is_not_there_is_named_in_the_error() {
        let settings =
            KubeSettings { kubeconfig: Some("/nonexistent/kubeconfig".into()), ..KubeSettings::default() };
        let error = clients(&settings).await.err().unwrap().to_string();
        assert!(error.contains("/nonexistent/kubeconfig"), "{error}");
    }
}
