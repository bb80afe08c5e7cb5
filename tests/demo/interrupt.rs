//! Ctrl-C and its kin: the demo ends at its next step, and takes everything down as always.

use std::sync::mpsc;
use std::thread;

use anyhow::{Result, bail};
use nix::sys::signal::{SigSet, Signal};

/// The signals that end the demo, held back until it asks for them.
pub(crate) struct Interrupt {
    signals: mpsc::Receiver<Signal>,
    ended: mpsc::Sender<Signal>,
}

impl Interrupt {
    /// Holds the signals back from now on, in this thread and those it starts.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn block() -> Result<Self> {
        let mut set = SigSet::empty();
        [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|signal| set.add(signal));
        set.thread_block()?;
        let (sender, signals) = mpsc::channel();
        let ended = sender.clone();
        thread::spawn(move || {
            while let Ok(signal) = set.wait() {
                if sender.send(signal).is_err() {
                    return;
                }
            }
        });
        Ok(Self { signals, ended })
    }

    /// # Errors
    /// One of the signals came.
    pub(crate) fn check(&self) -> Result<()> {
        match self.signals.try_recv() {
            Ok(signal) => bail!("ended by {signal}"),
            Err(_) => Ok(()),
        }
    }

    /// Waits for Enter, the end of the input, or one of the signals.
    ///
    /// # Errors
    /// No signal and no Enter can come any more.
    pub(crate) fn wait_for_enter(&self) -> Result<()> {
        println!("Press Enter or Ctrl-C to take everything down.");
        let ended = self.ended.clone();
        thread::spawn(move || {
            // An error ends the waiting as Enter does: nobody is there to press it.
            let _ = std::io::stdin().read_line(&mut String::new());
            ended.send(Signal::SIGINT)
        });
        self.signals.recv()?;
        Ok(())
    }
}
