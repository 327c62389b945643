use lockstep_proto::message::{Command, MessageHeader};
use serde_json::Value;
use zerocopy::IntoBytes;

use super::*;
use crate::{
    checkpoint::{
        install::{create_temporary, install},
        writer::{CheckpointMeta, CheckpointWriter},
    },
    journal::{
        file::BlockFile,
        folder::{Identity, JOURNAL_SIZE_MIN},
        format::format_folder,
        open::{Expected, OpenedShard, open_folder},
        superblock,
    },
};

const IDENTITY: Identity = Identity { cluster: 0xabc, replica: 1, servers: 3, shards: 2 };

fn formatted() -> tempfile::TempDir {
    let place = tempfile::tempdir().expect("there is a place for temporary files");
    format_folder(place.path(), &IDENTITY, JOURNAL_SIZE_MIN, &mut |_| {}).expect("it can be formatted");
    place
}

/// Writes a checkpoint at op 10 and prepares 11 to 13 into shard 0.
fn fill(place: &tempfile::TempDir) {
    let opened = open_folder(place.path(), &Expected::default()).expect("it is ours");
    let shard = &opened.shards[0];
    let pool = Pool::new(1 << 20);
    write_checkpoint(shard, &pool);
    let mut parent = 99;
    for op in 11..14 {
        let mut header = MessageHeader::new(Command::Prepare, IDENTITY.cluster, 0, 0, 3);
        header.op = op.into();
        header.parent = parent.into();
        header.commit = (op - 1).into();
        header.request_count = 1.into();
        header.revision = (op * 10).into();
        header.seal(&[7; 40]);
        parent = header.checksum.get();
        let mut message = header.as_bytes().to_vec();
        message.extend_from_slice(&[7; 40]);
        shard.journal.write_at(&pool.copy_padded(&message, 4096), (op - 11) * 4096).expect("the disk works");
    }
}

fn write_checkpoint(shard: &OpenedShard, pool: &Pool) {
    let meta =
        CheckpointMeta { cluster: 0xabc, shard: 0, shards: 2, op: 10, parent: 99, revision: 110, timestamp_ns: 1 };
    let mut writer = CheckpointWriter::new(meta, pool);
    writer.push(Section::Store, &[1; 5000]);
    writer.push(Section::Sessions, &[2; 70]);
    let (writes, finished) = writer.finish(55);
    let file = create_temporary(&shard.dir, 10).expect("the disk works");
    for write in writes {
        file.write_at(&write.bytes, write.offset).expect("the disk works");
    }
    file.sync().expect("the disk works");
    install(&shard.dir, 10).expect("the disk works");
    let mut superblock = shard.superblock;
    superblock.sequence = 2.into();
    finished.enter_into(&mut superblock, 0);
    superblock.seal();
    superblock::write(&shard.superblock_file, &superblock).expect("the disk works");
}

fn text_of(dir: &Path) -> (Verdict, String) {
    let mut out = Vec::new();
    let verdict = inspect(dir, &InspectOptions::default(), &mut out).expect("there is something to show");
    (verdict, String::from_utf8(out).expect("it is text"))
}

#[test]
fn text_shows_superblock_checkpoint_and_entries() {
    let place = formatted();
    fill(&place);
    let (verdict, text) = text_of(place.path());
    assert_eq!(verdict, Verdict::Sound);
    for part in [
        "server 1 of 3 in cluster 00000000000000000000000000000abc, 2 shards",
        "sequence 2, view 0, log view 0, checkpoint 10, journal of 16777216 bytes",
        "copies      current | current | current | current",
        "checkpoint  op 10, ",
        "journal     3 entries, op 11 to 13, 12288 bytes, tail clean",
        "\nshard 1\n",
        "journal     0 entries, op 1 to 0, 0 bytes, tail clean",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    assert!(!text.contains("DAMAGE") && !text.contains("in use"), "{text}");
}

#[test]
fn json_has_the_last_entries_asked_for() {
    let place = formatted();
    fill(&place);
    let mut out = Vec::new();
    let options = InspectOptions { format: InspectFormat::Json, entries_max: 2, shard: Some(0) };
    inspect(place.path(), &options, &mut out).expect("there is something to show");
    let view: Value = serde_json::from_slice(&out).expect("it is JSON");
    assert_eq!(view["is_in_use"], false);
    assert_eq!(view["shards"].as_array().map(Vec::len), Some(1));
    let shard = &view["shards"][0];
    assert_eq!(shard["damage"].as_array().map(Vec::len), Some(0));
    assert_eq!(shard["checkpoint"]["store_bytes"], 5000);
    assert_eq!(shard["checkpoint"]["sessions_bytes"], 70);
    assert_eq!(shard["journal"]["entries"], 3);
    let entries = shard["journal"]["last_entries"].as_array().expect("a list");
    let summary: Vec<_> = entries.iter().map(|entry| (entry["op"].as_u64(), entry["offset"].as_u64())).collect();
    assert_eq!(summary, [(Some(12), Some(4096)), (Some(13), Some(8192))]);
}

#[test]
fn damage_is_shown_and_nothing_is_changed() {
    let place = formatted();
    fill(&place);
    let shard = shard_path(place.path(), 0);
    let paths = ["superblock", "journal", "checkpoint-10"].map(|name| shard.join(name));
    for (path, byte) in paths.iter().zip([50, 4096 + 260, 5000]) {
        let mut bytes = fs::read(path).expect("it is there");
        bytes[byte] ^= 1;
        fs::write(path, bytes).expect("it can be written");
    }
    let before = paths.each_ref().map(|path| fs::read(path).expect("it is there"));
    let (verdict, text) = text_of(place.path());
    assert_eq!(verdict, Verdict::Damaged);
    assert!(text.contains("superblock is damaged: checksum does not match | current"), "{text}");
    assert!(text.contains("tail torn at op 12, byte 4096; unusable after it: op 13"), "{text}");
    assert!(text.contains("checkpoint-10: checkpoint is damaged at byte 4096"), "{text}");
    assert!(paths.each_ref().map(|path| fs::read(path).expect("it is there")) == before);
}

#[test]
fn a_folder_in_use_is_shown_as_such() {
    let place = formatted();
    let opened = open_folder(place.path(), &Expected::default()).expect("it is ours");
    assert!(text_of(place.path()).1.contains("(in use by a server"));
    drop(opened);
    assert!(!text_of(place.path()).1.contains("(in use by a server"));
    open_folder(place.path(), &Expected::default()).expect("a look leaves no lock behind");
}

#[test]
fn what_is_not_a_data_folder_is_refused() {
    let place = tempfile::tempdir().expect("there is a place for temporary files");
    let look =
        |dir: &Path| inspect(dir, &InspectOptions::default(), &mut Vec::new()).expect_err("it is not").to_string();
    assert!(look(place.path()).contains("is not formatted"));
    assert!(look(&place.path().join("nowhere")).contains("does not exist"));
    let file = place.path().join("file");
    fs::write(&file, "x").expect("it can be written");
    assert!(look(&file).contains("is not a folder"));
}

#[test]
fn a_shard_that_is_not_there_is_no_damage_and_one_that_is_missing_is() {
    let place = formatted();
    let look = |shard| {
        let mut text = Vec::new();
        let verdict = inspect(place.path(), &InspectOptions { shard, ..InspectOptions::default() }, &mut text);
        (verdict.map_err(|error| error.to_string()), String::from_utf8_lossy(&text).into_owned())
    };
    let (verdict, text) = look(Some(3));
    let expected = format!("data folder {} has no shard 3: it has shards 0 to 1", place.path().display());
    assert_eq!((verdict, text.as_str()), (Err(expected), ""));
    assert_eq!(look(Some(1)).0, Ok(Verdict::Sound));
    fs::remove_dir_all(shard_path(place.path(), 1)).expect("it is there");
    for shard in [None, Some(1)] {
        let (verdict, text) = look(shard);
        assert_eq!(verdict, Ok(Verdict::Damaged));
        assert!(text.contains("is incomplete"), "{text}");
    }
}
