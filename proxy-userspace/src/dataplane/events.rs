//! The ring buffer of decisions as a stream.
//!
//! Must not know how a record is printed.

use std::io;

use aya::maps::{MapData, RingBuf};
use proxy_common::{SocketEvent, names};
use tokio::io::{Interest, unix::AsyncFd};

use super::{ApplyError, ReadError, handles::MapHandles};

/// More records than fit into the buffer: enough to empty it, and an end if programs keep filling it.
const STALE_LIMIT: usize = 65_536;

/// Decisions of the programs, while the monitor variant is attached. One reader at a time: a record goes to whoever
/// reads it first.
pub struct EventStream {
    buffer: AsyncFd<RingBuf<MapData>>,
}

impl EventStream {
    /// Begins with the next decision; what an earlier reader left behind is dropped.
    pub(super) fn open(handles: &MapHandles) -> Result<Self, ReadError> {
        let mut buffer: RingBuf<MapData> = handles.typed(names::EVENTS)?;
        for _ in 0..STALE_LIMIT {
            if buffer.next().is_none() {
                break;
            }
        }
        // SAFETY: the buffer owns its descriptor and keeps it open for as long as it lives.
        let registered = unsafe { AsyncFd::register_with_interest(buffer, Interest::READABLE) };
        Ok(Self { buffer: registered.map_err(|error| failed(error.into()))? })
    }

    /// Waits for the next decision. Records of another length, from programs of another version, are skipped.
    ///
    /// # Errors
    /// Waiting failed.
    pub async fn next(&mut self) -> Result<SocketEvent, ReadError> {
        loop {
            let mut ready = self.buffer.readable_mut().await.map_err(failed)?;
            match ready.get_inner_mut().next().map(|record| parse(&record)) {
                Some(Some(event)) => return Ok(event),
                Some(None) => {}
                None => ready.clear_ready(),
            }
        }
    }
}

fn failed(source: io::Error) -> ReadError {
    ReadError::Map(ApplyError::Kernel { action: "wait for", map: names::EVENTS, source })
}

fn parse(record: &[u8]) -> Option<SocketEvent> {
    let right = record.len() == size_of::<SocketEvent>();
    // SAFETY: the record is as long as the struct, which is made of integers without padding; unaligned on purpose.
    right.then(|| unsafe { record.as_ptr().cast::<SocketEvent>().read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_another_length_are_not_read() {
        let bytes = [1_u8; size_of::<SocketEvent>() + 1];
        assert!(parse(&bytes).is_none());
        assert_eq!(parse(&bytes[1..]).unwrap().pid, 0x0101_0101);
    }
}
