//! That nothing is lost right after the wiring, on a real kernel.

use std::net::{IpAddr, UdpSocket};

use super::{
    lab::{HOST, PATIENCE, Pod, on_a_host},
    *,
};

/// Whether a datagram that is sent once arrives.
fn arrives(from: &UdpSocket, to: &UdpSocket) -> bool {
    to.set_read_timeout(Some(PATIENCE)).unwrap();
    from.send_to(b"first", to.local_addr().unwrap()).unwrap();
    to.recv(&mut [0; 8]).is_ok_and(|length| length == 5)
}

#[test]
#[ignore = "needs root: makes namespaces"]
fn the_first_packet_to_and_from_the_pod_is_not_lost_in_either_family() {
    on_a_host(|lab| {
        let host = HOST.map(|address| UdpSocket::bind((address.parse::<IpAddr>().unwrap(), 0)).unwrap());
        for round in 0..60 {
            let pod = Pod::new();
            let attachment = pod.attachment(&format!("first{round}"));
            connect(&attachment, &lab.pins).unwrap();
            let bind = |address: &IpAddr| pod.run(|| UdpSocket::bind((*address, 0)).unwrap());
            let inside: Vec<UdpSocket> = attachment.addresses.iter().map(bind).collect();
            let mut pairs: Vec<_> = host.iter().zip(&inside).collect();
            // Each way and family is the first in some rounds.
            pairs.rotate_left(round % 2);
            for (host, pod) in pairs {
                let [from, to] = if round % 4 < 2 { [host, pod] } else { [pod, host] };
                assert!(arrives(from, to), "round {round}: {from:?} to {to:?}");
                assert!(arrives(to, from), "round {round}: {to:?} to {from:?}");
            }
            disconnect(&attachment, Some(&lab.pins)).unwrap();
        }
    });
}
