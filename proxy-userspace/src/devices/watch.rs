//! Follows the devices: a new choice whenever something changed that a choice depends on.
//!
//! Must not know what a choice is made of.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use proxy_core::model::Event;
use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant},
};
use tracing::{debug, warn};

use super::{
    choice::{Choice, Selection, choose},
    netlink::{GROUPS, Notifications, ReadError, matters, read},
};

/// A device that comes up brings several notifications; they are answered by one reading.
const SETTLE: Duration = Duration::from_millis(20);

/// After a reading that took long so many times as much passes before the next: on a node with thousands of devices
/// that change all the time, readings take a fifth of one CPU at most.
const REST: u32 = 4;

/// Pause after an error.
const RETRY: Duration = Duration::from_secs(5);

/// Publishes the choice at the start and after each change, until nobody listens any more.
///
/// An error is logged and tried again; the last choice stays.
pub async fn watch(selection: Selection, choices: watch::Sender<Option<Arc<Choice>>>) {
    while !choices.is_closed() {
        if let Err(error) = follow(&selection, &choices).await {
            warn!(%error, "cannot read the node's devices; trying again in {} s", RETRY.as_secs());
            time::sleep(RETRY).await;
        }
    }
}

/// Returns without an error when nobody listens.
async fn follow(
    selection: &Selection,
    choices: &watch::Sender<Option<Arc<Choice>>>,
) -> Result<(), ReadError> {
    // Subscribed before the first reading: a change in between is seen by one of both.
    let mut notifications = Notifications::subscribe(&GROUPS, Box::new(matters))?;
    loop {
        let start = Instant::now();
        let choice = choose(&read().await?, selection);
        let rest = start.elapsed() * REST;
        choices.send_if_modified(|known| publish(known, choice));
        tokio::select! {
            () = choices.closed() => return Ok(()),
            told = notifications.next() => told?,
        }
        time::sleep(rest.max(SETTLE)).await;
        notifications.forget();
    }
}

/// Whether readers are to be woken. A device that gets no programs is nothing to them: they see it when they look again.
fn publish(known: &mut Option<Arc<Choice>>, choice: Choice) -> bool {
    let wakes = known.as_deref().is_none_or(|known| !known.gives_the_same(&choice));
    if wakes {
        debug!(?choice, "devices of this node");
    }
    *known = Some(Arc::new(choice));
    wakes
}

/// Waits until the node has other primary addresses than these.
///
/// # Errors
/// Nobody chooses any more.
pub async fn other_primary(
    choices: &mut watch::Receiver<Option<Arc<Choice>>>,
    seen: Option<&BTreeSet<IpAddr>>,
) -> Result<(), watch::error::RecvError> {
    loop {
        choices.changed().await?;
        if choices.borrow_and_update().as_ref().map(|choice| &choice.primary) != seen {
            return Ok(());
        }
    }
}

/// Tells the model the addresses on which NodePorts are served, whenever they changed: all of the node's, or only the
/// primary ones.
pub async fn tell_addresses(
    mut choices: watch::Receiver<Option<Arc<Choice>>>,
    only_primary: bool,
    events: mpsc::Sender<Event>,
) {
    let mut told: Option<BTreeSet<IpAddr>> = None;
    loop {
        let wanted = choices
            .borrow_and_update()
            .as_ref()
            .map(|choice| if only_primary { choice.primary.clone() } else { choice.addresses.clone() });
        if let Some(addresses) = wanted.filter(|wanted| told.as_ref() != Some(wanted)) {
            debug!(?addresses, "addresses of this node");
            told = Some(addresses.clone());
            if events.send(Event::Addresses(addresses)).await.is_err() {
                return;
            }
        }
        if choices.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(all: &[&str], primary: &[&str]) -> Arc<Choice> {
        let set = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Arc::new(Choice { addresses: set(all), primary: set(primary), ..Choice::default() })
    }

    async fn told(events: &mut mpsc::Receiver<Event>) -> Vec<String> {
        match events.recv().await {
            Some(Event::Addresses(addresses)) => addresses.iter().map(ToString::to_string).collect(),
            other => unreachable!("{other:?}"),
        }
    }

    #[test]
    fn a_device_that_gets_no_programs_wakes_nobody_and_is_seen_by_who_looks() {
        let with_other = |index: u32| Choice { others: [index].into(), ..Choice::default() };
        let mut known = None;
        assert!(publish(&mut known, with_other(7)));
        assert!(!publish(&mut known, with_other(8)));
        assert_eq!(known.as_deref(), Some(&with_other(8)));
        let addressed = (*choice(&["192.0.2.1"], &[])).clone();
        assert!(publish(&mut known, addressed));
    }

    #[tokio::test]
    async fn who_waits_for_other_primary_addresses_is_not_woken_by_a_new_pod() {
        let (choices, mut receiver) = watch::channel(None);
        let seen: BTreeSet<IpAddr> = ["192.0.2.1".parse().unwrap()].into();
        choices.send_replace(Some(choice(&["192.0.2.1", "192.0.2.2"], &["192.0.2.1"])));
        let waiting = tokio::spawn(async move {
            other_primary(&mut receiver, Some(&seen)).await.unwrap();
            receiver
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        choices.send_replace(Some(choice(&[], &["192.0.2.2"])));
        let receiver = waiting.await.unwrap();
        assert_eq!(receiver.borrow().as_ref().unwrap().primary.first().unwrap().to_string(), "192.0.2.2");
    }

    #[tokio::test]
    async fn the_model_hears_of_the_addresses_when_they_changed() {
        for only_primary in [false, true] {
            let (choices, receiver) = watch::channel(None);
            let (sender, mut events) = mpsc::channel(1);
            let teller = tokio::spawn(tell_addresses(receiver, only_primary, sender));
            choices.send_replace(Some(choice(&["192.0.2.1", "192.0.2.2"], &["192.0.2.1"])));
            assert_eq!(told(&mut events).await.len(), if only_primary { 1 } else { 2 });
            // A choice that differs in something else says nothing new.
            let mut same = (**choices.borrow().as_ref().unwrap()).clone();
            same.devices.clear();
            choices.send_replace(Some(Arc::new(same)));
            choices.send_replace(Some(choice(&["192.0.2.3"], &["192.0.2.3"])));
            assert_eq!(told(&mut events).await, ["192.0.2.3"]);
            drop(choices);
            teller.await.unwrap();
        }
    }
}
