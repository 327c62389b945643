//! Hello and topology.

use lockstep_proto::{
    checksum::checksum_128,
    hello::{Answer, Hello, HelloError, MAGIC, REPLICA_NONE, Role, Topology, TopologyHeader},
    limits::{DISK_FORMAT_VERSION, SERVERS_MAX, SESSION_WINDOW, SHARDS_MAX, TOPOLOGY_BODY_SIZE_MAX, WIRE_VERSION},
};
use proptest::prelude::*;
use zerocopy::{
    FromBytes, IntoBytes,
    little_endian::{U32, U64, U128},
};

use crate::damage::{each_flipped_bit, noise};

pub fn hello() -> impl Strategy<Value = Hello> {
    prop_oneof![
        (any::<u128>(), any::<u16>(), any::<u16>())
            .prop_map(|(cluster, shard, shards)| Hello::client(cluster, shard, shards)),
        (any::<u128>(), any::<u16>(), any::<u16>(), 1..=SERVERS_MAX, any::<prop::sample::Index>()).prop_map(
            |(cluster, shard, shards, servers, replica)| {
                let hello = Hello::replica(cluster, shard, shards, replica.index(servers.into()) as u8, servers);
                if cluster % 2 == 0 { hello } else { hello.of_process(cluster as u64, cluster as u32) }
            }
        ),
    ]
}

pub fn topology() -> impl Strategy<Value = Topology> {
    let welcome = (1..=SERVERS_MAX, 1..=SHARDS_MAX, 1..=SESSION_WINDOW as u16, any::<u128>(), any::<u64>())
        .prop_flat_map(|(servers, shards, window, cluster, view)| {
            (0..servers, 0..shards, prop::collection::vec("[a-z.]{1,30}:[0-9]{1,5}", usize::from(servers))).prop_map(
                move |(replica, shard, addresses)| Topology {
                    answer: Answer::Welcome,
                    replica,
                    shard,
                    shards,
                    cluster,
                    view,
                    servers,
                    window,
                    text: addresses.join(","),
                },
            )
        });
    let refusal = (prop::sample::select(&Answer::ALL[1..]), any::<u8>(), any::<u16>(), ".{0,60}").prop_map(
        |(answer, replica, shard, text)| Topology {
            answer,
            replica,
            shard,
            shards: 0,
            cluster: 0,
            view: 0,
            servers: 0,
            window: 0,
            text,
        },
    );
    prop_oneof![welcome, refusal]
}

fn sealed(mut hello: Hello) -> Hello {
    hello.checksum = U128::new(checksum_128(&hello.as_bytes()[..48]));
    hello
}

/// Writes the checksum that the bytes of a topology answer should have.
fn seal_topology(bytes: &mut [u8]) {
    let covered = [&bytes[..48], &bytes[TopologyHeader::SIZE..]].concat();
    bytes[48..64].copy_from_slice(&checksum_128(&covered).to_le_bytes());
}

#[test]
fn a_hello_of_another_version_is_told_which() {
    let mut hello = Hello::client(0, 0, 0);
    hello.version = 9.into();
    assert_eq!(sealed(hello).check(), Err(HelloError::Version(9)));
    assert_eq!(hello.check(), Err(HelloError::Version(9)), "even when the checksum is computed in another way");
    assert_eq!(
        HelloError::Version(9).to_string(),
        format!("wire version 9 is not supported (this build speaks {WIRE_VERSION})")
    );
    // That of the disk is another number.
    hello.version = DISK_FORMAT_VERSION.into();
    assert_eq!(hello.check(), Err(HelloError::Version(DISK_FORMAT_VERSION)));
}

#[test]
fn a_hello_with_a_field_out_of_range_is_refused() {
    let client = Hello::client(0, 0, 0);
    let server = Hello::replica(1, 0, 1, 2, 3);
    for hello in [
        Hello { role: 0, ..client },
        Hello { role: 3, ..client },
        Hello { replica: 0, ..client },
        Hello { servers: 3, ..client },
        Hello { replica: 3, ..server },
        Hello { servers: SERVERS_MAX + 1, ..server },
        Hello { servers: 0, replica: 0, ..server },
        Hello { replica: REPLICA_NONE, ..server },
        Hello { reserved: [1; 3], ..server },
    ] {
        assert_eq!(sealed(hello).check(), Err(HelloError::Field), "{hello:?}");
        assert!(hello.check().is_err());
    }
}

#[test]
fn another_protocol_is_refused_at_the_first_byte_that_differs() {
    assert!(matches!(Hello::parse(b""), Ok(None)));
    assert!(matches!(Hello::parse(b"LOCKST"), Ok(None)));
    for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"*1\r\n$4\r\nPING\r\n", b"LOCKSMITH", b"\0"] {
        assert_eq!(Hello::parse(bytes), Err(HelloError::Magic));
        assert_eq!(Topology::parse(bytes), Err(HelloError::Magic));
    }
}

#[test]
fn a_welcome_is_consistent_in_itself() {
    let welcome = Topology {
        answer: Answer::Welcome,
        replica: 1,
        shard: 1,
        shards: 2,
        cluster: 5,
        view: 0,
        servers: 3,
        window: 8,
        text: "a:1,b:2,c:3".to_string(),
    };
    let addresses: Vec<_> = welcome.addresses().collect();
    assert_eq!(addresses, ["a:1", "b:2", "c:3"]);
    for broken in [
        Topology { replica: 3, ..welcome.clone() },
        Topology { shard: 2, ..welcome.clone() },
        Topology { shards: SHARDS_MAX + 1, ..welcome.clone() },
        Topology { servers: 2, ..welcome.clone() },
        Topology { servers: 0, text: String::new(), ..welcome.clone() },
        Topology { servers: 8, text: "a,b,c,d,e,f,g,h".to_string(), ..welcome.clone() },
        Topology { window: 0, ..welcome.clone() },
        Topology { window: SESSION_WINDOW as u16 + 1, ..welcome.clone() },
        Topology { text: "a:1,,c:3".to_string(), ..welcome.clone() },
    ] {
        assert_eq!(Topology::parse(&broken.encode()), Err(HelloError::Field), "{broken:?}");
        let refusal = Topology { answer: Answer::Full, window: 0, ..broken };
        assert_eq!(refusal.addresses().count(), 0);
        assert!(Topology::parse(&refusal.encode()).is_ok_and(|parsed| parsed.is_some()));
    }
}

#[test]
fn text_beyond_the_bound_is_cut_off_between_characters() {
    let text = "ä".repeat(TOPOLOGY_BODY_SIZE_MAX);
    let text = format!("a{text}");
    let refusal = Topology {
        answer: Answer::Stopping,
        replica: 0,
        shard: 0,
        shards: 0,
        cluster: 0,
        view: 0,
        servers: 0,
        window: 0,
        text,
    };
    let (parsed, _) = Topology::parse(&refusal.encode()).expect("valid").expect("complete");
    assert_eq!(parsed.text.len(), TOPOLOGY_BODY_SIZE_MAX - 1);
    assert!(refusal.text.starts_with(&parsed.text));
}

#[test]
fn a_text_size_beyond_the_bound_is_not_waited_for() {
    let refusal = Topology {
        answer: Answer::Full,
        replica: 0,
        shard: 0,
        shards: 0,
        cluster: 0,
        view: 0,
        servers: 0,
        window: 0,
        text: String::new(),
    };
    let mut bytes = refusal.encode();
    for size in [TOPOLOGY_BODY_SIZE_MAX as u32 + 1, u32::MAX] {
        bytes[44..48].copy_from_slice(&size.to_le_bytes());
        seal_topology(&mut bytes);
        assert_eq!(Topology::parse(&bytes), Err(HelloError::Field));
    }
}

proptest! {
    #[test]
    fn every_hello_comes_back(hello in hello(), after in noise(20)) {
        let mut bytes = hello.as_bytes().to_vec();
        for size in 0..bytes.len() {
            prop_assert_eq!(Hello::parse(&bytes[..size]), Ok(None));
        }
        bytes.extend(after);
        let role = if hello.replica == REPLICA_NONE { Role::Client } else { Role::Replica };
        prop_assert_eq!(Hello::parse(&bytes), Ok(Some((hello, role))));
        prop_assert_eq!(hello.check(), Ok(role));
    }

    #[test]
    fn a_flipped_bit_in_a_hello_never_passes(hello in hello()) {
        each_flipped_bit(hello.as_bytes(), |damaged, bit| {
            assert!(Hello::parse(damaged).is_err(), "bit {bit}");
        });
    }

    #[test]
    fn every_topology_comes_back(topology in topology(), after in noise(20)) {
        let mut bytes = topology.encode();
        let size = bytes.len();
        for cut in 0..size {
            prop_assert_eq!(Topology::parse(&bytes[..cut]), Ok(None), "{}", cut);
        }
        bytes.extend(after);
        prop_assert_eq!(Topology::parse(&bytes), Ok(Some((topology, size))));
    }

    #[test]
    fn a_flipped_bit_in_a_topology_never_passes(topology in topology(), after in noise(100)) {
        let mut bytes = topology.encode();
        let size = bytes.len();
        bytes.extend(after);
        each_flipped_bit(&bytes, |damaged, bit| {
            assert_eq!(matches!(Topology::parse(damaged), Ok(Some(_))), bit >= size * 8, "bit {bit}");
        });
    }

    #[test]
    fn bytes_that_are_no_hello_do_no_harm(bytes in noise(200)) {
        let bytes = [&MAGIC.to_le_bytes()[..], &WIRE_VERSION.to_le_bytes(), &bytes].concat();
        let _ = Topology::parse(&bytes);
        if let Ok(hello) = Hello::read_from_prefix(&bytes) {
            let mut hello = sealed(hello.0);
            // Whatever the other fields are: with a right checksum only their ranges decide.
            let is_client = hello.role == 1 && hello.replica == REPLICA_NONE && hello.servers == 0;
            let is_server = hello.role == 2 && hello.replica < hello.servers && hello.servers <= SERVERS_MAX;
            (hello.reserved, hello.sessions_max, hello.instance) = ([0; 3], U32::ZERO, U64::ZERO);
            prop_assert_eq!(sealed(hello).check().is_ok(), is_client || is_server);
        }
    }

    #[test]
    fn a_right_checksum_on_wrong_bytes_does_no_harm(
        topology in topology(), at in 10..64usize, byte in any::<u8>(), text in noise(40),
    ) {
        let mut bytes = topology.encode();
        bytes.truncate(TopologyHeader::SIZE);
        bytes[44..48].copy_from_slice(&(text.len() as u32).to_le_bytes());
        bytes[at] = byte;
        bytes.extend(&text);
        seal_topology(&mut bytes);
        if let Ok(Some((parsed, size))) = Topology::parse(&bytes) {
            prop_assert!(size <= bytes.len());
            prop_assert_eq!(parsed.encode(), &bytes[..size]);
        }
    }
}
