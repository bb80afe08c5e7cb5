//! How far a flow is: the state machine of TCP and of datagram protocols, and how long each state lasts without a packet.
//!
//! Follows what each side was seen to send. Sequence numbers are looked at once only, where a handshake ends: a record
//! must not become worth keeping because of a forged acknowledgement. Must not know where records are.

use proxy_common::{FlowFlags, FlowState, FlowValue};

use crate::{env::Env, parse::Headers, setting, wire::Wire};

/// TCP flags (RFC 9293, 3.1), byte 13 of the header.
pub const FIN: u8 = 1;
/// See [`FIN`].
pub const SYN: u8 = 1 << 1;
/// See [`FIN`].
pub const RST: u8 = 1 << 2;
/// See [`FIN`].
pub const ACK: u8 = 1 << 4;

/// IP protocol number of TCP.
pub(crate) const TCP: u8 = 6;

/// Whether a TCP packet asks for a new connection.
#[inline(always)]
pub fn opens(tcp_flags: u8) -> bool {
    tcp_flags & (SYN | ACK | RST | FIN) == SYN
}

/// Whether a TCP packet without a flow can be one of the middle of a connection whose record was lost.
#[inline(always)]
pub fn continues(tcp_flags: u8) -> bool {
    tcp_flags & (SYN | RST) == 0 && tcp_flags & ACK != 0
}

/// The client has sent a packet.
#[inline(always)]
pub fn client_sent<A: Wire>(flow: &mut FlowValue<A>, headers: &Headers<A>) {
    if flow.protocol != TCP {
        if flow.state == FlowState::Answered as u8 {
            flow.state = FlowState::Established as u8;
        }
        return;
    }
    let flags = headers.tcp_flags;
    if opens(flags) {
        // Whatever the backend answers to it is this flow's, and its handshake is seen from here on.
        flow.completing_ack = 0;
        flow.flags &= !FlowFlags::REBUILT;
    }
    if flow.state == FlowState::Answered as u8
        && flags & ACK != 0
        && acknowledges(flow, headers.acknowledgement)
    {
        flow.state = FlowState::Established as u8;
    }
    ends(flow, flags, FlowFlags::CLIENT_ENDED);
}

/// The backend has sent a packet.
#[inline(always)]
pub fn backend_sent<A: Wire>(flow: &mut FlowValue<A>, headers: &Headers<A>) {
    let flags = headers.tcp_flags;
    if flow.state == FlowState::New as u8 {
        flow.state = FlowState::Answered as u8;
    }
    if flow.protocol == TCP && flags & SYN != 0 {
        // 0 has a meaning: then the next one is as good, being within the window.
        let next = headers.sequence.wrapping_add(1);
        flow.completing_ack = if next == 0 { 1 } else { next };
    }
    if flow.protocol == TCP {
        ends(flow, flags, FlowFlags::BACKEND_ENDED);
    }
}

/// Whether a backend's packet opens another connection than the flow's: it answers a SYN that the flow has not seen, and
/// does not repeat the answer that it has seen.
#[inline(always)]
pub fn answers_another<A: Wire>(flow: &FlowValue<A>, headers: &Headers<A>) -> bool {
    flow.protocol == TCP
        && headers.tcp_flags & (SYN | ACK) == SYN | ACK
        && flow.completing_ack != 0
        && headers.sequence.wrapping_add(1).max(1) != flow.completing_ack
}

/// Whether the client has what the backend answered to its SYN. Nobody knows that of a flow that was found again in its
/// middle.
#[inline(always)]
fn acknowledges<A: Wire>(flow: &FlowValue<A>, acknowledgement: u32) -> bool {
    if flow.completing_ack == 0 {
        return flow.flags().has(FlowFlags::REBUILT);
    }
    // RFC 9293, 3.4: sequence numbers are compared modulo 2^32. No more than a window without scaling, which a SYN-ACK
    // has: half of all numbers would let every second forged acknowledgement pass.
    acknowledgement.wrapping_sub(flow.completing_ack) <= 0xffff
}

#[inline(always)]
fn ends<A: Wire>(flow: &mut FlowValue<A>, tcp_flags: u8, side: u8) {
    if tcp_flags & RST != 0 {
        flow.state = FlowState::Closing as u8;
    }
    if tcp_flags & FIN == 0 {
        return;
    }
    flow.flags |= side;
    let both = FlowFlags::CLIENT_ENDED | FlowFlags::BACKEND_ENDED;
    if flow.flags & both == both {
        flow.state = FlowState::Closing as u8;
    } else if flow.state == FlowState::Established as u8 {
        flow.state = FlowState::HalfClosed as u8;
    }
}

/// How many seconds a flow lasts without a packet.
#[inline(always)]
pub fn lifetime_s<A: Wire, E: Env<A>>(env: &E, flow: &FlowValue<A>) -> u32 {
    let is = |state: FlowState| flow.state == state as u8;
    if flow.protocol != TCP {
        return if is(FlowState::New) { setting!(env, datagram_new_s) } else { setting!(env, datagram_s) };
    }
    if is(FlowState::Established) {
        setting!(env, tcp_established_s)
    } else if is(FlowState::HalfClosed) {
        setting!(env, tcp_half_closed_s)
    } else if is(FlowState::Closing) {
        setting!(env, tcp_closing_s)
    } else {
        setting!(env, tcp_new_s)
    }
}

/// Whether both sides were seen to receive: such a flow is never given up for a new one.
#[inline(always)]
pub fn proven<A: Wire>(flow: &FlowValue<A>) -> bool {
    flow.state == FlowState::Established as u8 || flow.state == FlowState::HalfClosed as u8
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proxy_common::Ipv4Be;

    use super::*;

    type Flow = FlowValue<Ipv4Be>;

    const NEW: Flow = Flow { protocol: TCP, state: FlowState::New as u8, ..Flow::FREE };

    fn tcp(tcp_flags: u8, sequence: u32, acknowledgement: u32) -> Headers<Ipv4Be> {
        Headers { protocol: TCP, tcp_flags, sequence, acknowledgement, ..Headers::NONE }
    }

    fn after(start: Flow, steps: &[(char, Headers<Ipv4Be>)]) -> Flow {
        let mut flow = start;
        for (side, headers) in steps {
            match side {
                'c' => client_sent(&mut flow, headers),
                _ => backend_sent(&mut flow, headers),
            }
        }
        flow
    }

    #[test]
    fn a_handshake_counts_only_with_the_acknowledgement_of_what_the_backend_sent() {
        let start = [('c', tcp(SYN, 100, 0)), ('b', tcp(SYN | ACK, u32::MAX, 101))];
        let half = after(NEW, &start);
        assert_eq!((half.state, half.completing_ack), (FlowState::Answered as u8, 1));
        let start = [('c', tcp(SYN, 100, 0)), ('b', tcp(SYN | ACK, 700, 101))];
        let half = after(NEW, &start);
        for (ack, state) in [
            (701, FlowState::Established),
            (900, FlowState::Established),
            (700, FlowState::Answered),
            (701 + (1 << 30), FlowState::Answered),
        ] {
            assert_eq!(after(half, &[('c', tcp(ACK, 101, ack))]).state, state as u8, "{ack}");
        }
        let again = after(half, &[('c', tcp(SYN, 100, 0)), ('c', tcp(ACK, 101, 5))]);
        assert_eq!((again.state, again.completing_ack), (FlowState::Answered as u8, 0));
        let found = Flow { flags: FlowFlags::REBUILT, ..NEW };
        let steps = [('c', tcp(ACK, 7, 9)), ('b', tcp(ACK, 9, 7)), ('c', tcp(ACK, 7, 9))];
        assert_eq!(after(found, &steps).state, FlowState::Established as u8);
    }

    #[test]
    fn a_backend_that_answers_a_syn_nobody_sent_through_the_flow_talks_of_another_connection() {
        let open = Flow { state: FlowState::Established as u8, completing_ack: 701, ..NEW };
        let closing = Flow { state: FlowState::Closing as u8, ..open };
        let cases = [
            (NEW, tcp(SYN | ACK, 900, 1), false),
            (open, tcp(SYN | ACK, 700, 1), false),
            (open, tcp(SYN | ACK, 900, 1), true),
            (closing, tcp(SYN | ACK, 900, 1), true),
            (closing, tcp(ACK, 900, 1), false),
            (Flow { protocol: 17, ..open }, Headers::NONE, false),
        ];
        for (flow, headers, expected) in cases {
            assert_eq!(answers_another(&flow, &headers), expected, "{flow:?} {headers:?}");
        }
    }

    #[test]
    fn a_connection_closes_when_both_ended_or_one_reset() {
        let open = Flow { state: FlowState::Established as u8, ..NEW };
        let cases: [(&[(char, u8)], FlowState); 6] = [
            (&[('c', FIN | ACK)], FlowState::HalfClosed),
            (&[('b', FIN | ACK)], FlowState::HalfClosed),
            (&[('c', FIN | ACK), ('b', ACK)], FlowState::HalfClosed),
            (&[('c', FIN | ACK), ('b', FIN | ACK)], FlowState::Closing),
            (&[('b', RST)], FlowState::Closing),
            (&[('c', RST | ACK)], FlowState::Closing),
        ];
        for (steps, state) in cases {
            let steps: Vec<_> = steps.iter().map(|(side, flags)| (*side, tcp(*flags, 1, 1))).collect();
            assert_eq!(after(open, &steps).state, state as u8, "{steps:?}");
        }
    }

    #[test]
    fn a_datagram_flow_is_proven_by_question_answer_question() {
        let new = Flow { protocol: 17, state: FlowState::New as u8, ..Flow::FREE };
        let any = Headers::NONE;
        assert_eq!(after(new, &[('c', any)]).state, FlowState::New as u8);
        assert_eq!(after(new, &[('b', any)]).state, FlowState::Answered as u8);
        assert_eq!(after(new, &[('b', any), ('b', any)]).state, FlowState::Answered as u8);
        assert!(proven(&after(new, &[('b', any), ('c', any)])));
    }

    #[test]
    fn only_a_plain_syn_opens_and_only_an_acknowledgement_continues() {
        let cases = [
            (SYN, true, false),
            (SYN | ACK, false, false),
            (SYN | FIN, false, false),
            (ACK, false, true),
            (FIN | ACK, false, true),
            (RST, false, false),
            (RST | ACK, false, false),
            (0, false, false),
        ];
        for (flags, opening, continuing) in cases {
            assert_eq!((opens(flags), continues(flags)), (opening, continuing), "{flags:#x}");
        }
    }
}
