//! The journal fills up faster than checkpoints make room: writes wait, and go on.

mod harness;

use std::time::Duration;

use harness::{Cluster, Spec};
use lockstep_client::{Client, ClientOptions};

const CLIENTS: usize = 16;
const PUTS_PER_CLIENT: usize = 12;
const VALUE_SIZE: usize = 768 << 10;

/// The write that waited for room in the journal stood in front of the superblock write that would have made the room.
#[test]
fn a_checkpoint_makes_room_while_writes_wait_for_it() {
    let cluster = Cluster::start(Spec::of(1));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let writers: Vec<_> = (0..CLIENTS).map(|index| tokio::spawn(write(cluster.addresses(), index))).collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
    let checkpoint = cluster.status(0, 0).and_then(|status| status["checkpoint"].as_u64());
    assert!(checkpoint > Some(0), "the journal was never full enough for a checkpoint");
}

async fn write(addresses: String, index: usize) {
    let options = ClientOptions::new().request_timeout(Duration::from_secs(60));
    let client = Client::connect(addresses.split(','), options).await.unwrap();
    for number in 0..PUTS_PER_CLIENT {
        let value = vec![number as u8; VALUE_SIZE];
        client.put(format!("key-{index}"), value).await.expect("there is room again, sooner or later");
    }
}
