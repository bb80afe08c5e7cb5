//! A route netlink socket: one request, its answers, and what the kernel says when it refuses.
//!
//! Synchronous, for a program that lives some milliseconds. A socket stays in the network namespace in which it was
//! opened. Must not know what is asked.

use std::{fmt, io};

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::{TimeVal, TimeValLike},
};
use thiserror::Error;

/// The kernel's datagrams are no larger (`NLMSG_GOODSIZE`, and 32 KiB for a dump).
const DATAGRAM: usize = 32 * 1024;
/// How often a dump that was interrupted by a change is begun again.
const ATTEMPTS: u32 = 5;
/// Seconds. The kernel answers before a request has been sent: whoever waits has missed something.
const PATIENCE: i64 = 10;
/// `NLMSG_ALIGNTO`.
const ALIGNMENT: usize = 4;
/// Size of `struct nlmsghdr`.
const HEADER: usize = 16;
/// `NLMSGERR_ATTR_MSG` (linux/netlink.h): a sentence.
const ATTRIBUTE_SENTENCE: u16 = 1;

/// The kernel refused, or did not answer.
#[derive(Debug, Error)]
pub struct Refusal {
    /// The error number.
    pub error: io::Error,
    /// What the kernel said of it, if anything.
    pub said: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.said {
            Some(said) => write!(f, "{}: {said}", self.error),
            None => self.error.fmt(f),
        }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self { error, said: None }
    }
}

impl Refusal {
    /// Whether it is this error number.
    pub(super) fn is(&self, number: i32) -> bool {
        self.error.raw_os_error() == Some(number)
    }

    fn broken(what: impl fmt::Display) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, format!("an answer that cannot be read: {what}")).into()
    }
}

/// A socket, and the namespace that the thread was in when it was opened.
#[derive(Debug)]
pub(super) struct Rtnetlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// What has come as an answer so far.
#[derive(Default)]
struct Answer {
    messages: Vec<RouteNetlinkMessage>,
    /// Why the last message that was left out could not be read.
    unreadable: Option<String>,
    complete: bool,
    interrupted: bool,
}

impl Rtnetlink {
    /// Opens one in this thread's namespace.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(PATIENCE))?;
        // Both only make refusals easier to read; the kernel has them since 4.12.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        // Without it some requests for one object are dumps of all (4.20).
        let _ = socket.set_netlink_get_strict_chk(true);
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Changes something; `flags` are `NLM_F_CREATE` and so on.
    pub(super) fn change(&mut self, request: RouteNetlinkMessage, flags: u16) -> Result<(), Refusal> {
        self.exchange(request, flags | NLM_F_ACK).map(drop)
    }

    /// Asks for one object.
    pub(super) fn get(&mut self, request: RouteNetlinkMessage) -> Result<RouteNetlinkMessage, Refusal> {
        let Answer { messages, unreadable, .. } = self.exchange(request, NLM_F_ACK)?;
        let nothing = || Refusal::broken(unreadable.unwrap_or_else(|| "nothing in it".to_owned()));
        messages.into_iter().next().ok_or_else(nothing)
    }

    /// Asks for all objects. A list that changed while it was read is read again. An object that the library cannot read
    /// is none of ours, and left out.
    pub(super) fn dump(
        &mut self,
        request: &RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Refusal> {
        for _ in 0..ATTEMPTS {
            match self.exchange(request.clone(), NLM_F_DUMP) {
                Ok(answer) if !answer.interrupted => return Ok(answer.messages),
                Ok(_) => {}
                // Parts of the answer were lost; what is left of it has the old sequence number.
                Err(refusal) if refusal.is(libc::ENOBUFS) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        let text = format!("a list that changed during each of {ATTEMPTS} readings");
        Err(io::Error::new(io::ErrorKind::Interrupted, text).into())
    }

    fn exchange(&mut self, request: RouteNetlinkMessage, flags: u16) -> Result<Answer, Refusal> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answer = Answer::default();
        while !answer.complete {
            self.receive()?;
            self.read(&mut answer)?;
        }
        Ok(answer)
    }

    fn receive(&mut self) -> io::Result<()> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, libc::MSG_TRUNC) {
                Ok(length) if length > self.buffer.len() => {
                    return Err(io::Error::other(format!("an answer of {length} bytes, which is too long")));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other.map(drop),
            }
        }
    }

    /// Reads the messages of one datagram.
    fn read(&self, answer: &mut Answer) -> Result<(), Refusal> {
        let mut rest = self.buffer.as_slice();
        while let Some(length) = rest.first_chunk().map(|length| u32::from_ne_bytes(*length) as usize) {
            if !(HEADER..=rest.len()).contains(&length) {
                return Err(Refusal::broken(format!("a message of {length} bytes")));
            }
            match NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) {
                Ok(message) if message.header.sequence_number == self.sequence => answer.add(message)?,
                Ok(_) => {}
                Err(error) => answer.unreadable = Some(error.to_string()),
            }
            rest = rest.get(length.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        }
        Ok(())
    }
}

impl Answer {
    fn add(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) -> Result<(), Refusal> {
        let (header, payload) = message.into_parts();
        self.interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
        match payload {
            NetlinkPayload::InnerMessage(message) => self.messages.push(message),
            NetlinkPayload::Error(error) => {
                self.complete = true;
                refused(&error, header.flags)?;
            }
            NetlinkPayload::Done(done) => {
                self.complete = true;
                if done.code < 0 {
                    return Err(io::Error::from_raw_os_error(-done.code).into());
                }
            }
            NetlinkPayload::Overrun(_) => return Err(io::Error::from_raw_os_error(libc::ENOBUFS).into()),
            _ => {}
        }
        Ok(())
    }
}

fn refused(error: &ErrorMessage, flags: u16) -> Result<(), Refusal> {
    if error.code.is_none() {
        return Ok(());
    }
    Err(Refusal { error: error.to_io(), said: sentence(&error.header, flags) })
}

/// The kernel's sentence in what follows the error number: the request's header, the request unless it is capped,
/// attributes.
fn sentence(rest: &[u8], flags: u16) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let request = match (flags & NLM_F_CAPPED, rest) {
        (0, [a, b, c, d, ..]) => (u32::from_ne_bytes([*a, *b, *c, *d]) as usize).next_multiple_of(ALIGNMENT),
        _ => HEADER,
    };
    let mut attributes = NlasIterator::new(rest.get(request..)?).filter_map(Result::ok);
    let found = attributes.find(|attribute| attribute.kind() == ATTRIBUTE_SENTENCE)?;
    let text = String::from_utf8_lossy(found.value()).trim_end_matches('\0').to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkMessage;

    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes
    }

    fn after_error(request: usize, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = u32::try_from(request).unwrap().to_ne_bytes().to_vec();
        bytes.resize(request.next_multiple_of(ALIGNMENT), 0);
        bytes.extend(attributes.concat());
        bytes
    }

    #[test]
    fn the_kernels_sentence_is_found_behind_the_request() {
        let attributes = [attribute(2, &[1, 0, 0, 0]), attribute(ATTRIBUTE_SENTENCE, b"Invalid gateway\0")];
        let capped = after_error(HEADER, &attributes);
        assert_eq!(sentence(&capped, NLM_F_ACK_TLVS | NLM_F_CAPPED).unwrap(), "Invalid gateway");
        let whole = after_error(HEADER + 21, &attributes);
        assert_eq!(sentence(&whole, NLM_F_ACK_TLVS).unwrap(), "Invalid gateway");
    }

    #[test]
    fn a_refusal_without_a_sentence_has_none() {
        assert_eq!(sentence(&after_error(HEADER, &[]), NLM_F_CAPPED), None);
        assert_eq!(sentence(&[1, 2], NLM_F_ACK_TLVS), None);
        let other = after_error(HEADER, &[attribute(7, b"x\0")]);
        assert_eq!(sentence(&other, NLM_F_ACK_TLVS | NLM_F_CAPPED), None);
    }

    #[test]
    fn a_refusal_says_what_the_kernel_said() {
        let refusal =
            Refusal { error: io::Error::from_raw_os_error(libc::EEXIST), said: Some("taken".into()) };
        assert_eq!(refusal.to_string(), "File exists (os error 17): taken");
        assert!(refusal.is(libc::EEXIST));
    }

    fn done(flags: u16, code: i32) -> NetlinkMessage<RouteNetlinkMessage> {
        let mut bytes = [20, 0, 0, 0, 3, 0].to_vec();
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(code.to_ne_bytes());
        NetlinkMessage::deserialize(&bytes).unwrap()
    }

    #[test]
    fn a_list_that_changed_while_it_was_read_is_known_by_its_flag_and_a_broken_one_by_its_end() {
        let mut answer = Answer::default();
        answer.add(done(NLM_F_DUMP_INTR, 0)).unwrap();
        assert!(answer.complete && answer.interrupted);
        let mut answer = Answer::default();
        answer.add(done(0, 0)).unwrap();
        assert!(answer.complete && !answer.interrupted);
        assert!(Answer::default().add(done(0, -libc::ENOBUFS)).unwrap_err().is(libc::ENOBUFS));
    }

    #[test]
    fn an_answer_to_an_earlier_question_is_passed_over() {
        let mut host = Rtnetlink::open().unwrap();
        let mut late = NetlinkMessage::from(RouteNetlinkMessage::GetLink(LinkMessage::default()));
        late.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        late.header.sequence_number = 77;
        late.finalize();
        let mut bytes = vec![0; late.buffer_len()];
        late.serialize(&mut bytes);
        host.socket.send(&bytes, 0).unwrap();
        let Ok(RouteNetlinkMessage::NewLink(lo)) = host.get(lo()) else { panic!("no lo") };
        assert_eq!(lo.header.index, 1);
    }

    fn lo() -> RouteNetlinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 1;
        RouteNetlinkMessage::GetLink(message)
    }

    #[test]
    fn a_thread_of_no_privilege_can_ask_for_lo() {
        let mut host = Rtnetlink::open().unwrap();
        let links = host.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default())).unwrap();
        assert!(!links.is_empty());
    }
}
