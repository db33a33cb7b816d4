//! The simulated disk loses what it should, and nothing else.

use super::*;

const LOG: &str = "/data/log";

fn disk_with_log() -> (SimDisk, Arc<dyn DiskFile>) {
    let disk = SimDisk::default();
    disk.create_dir_all("/data".as_ref()).unwrap();
    let file = disk.create(LOG.as_ref()).unwrap();
    disk.sync_dir("/data".as_ref()).unwrap();
    (disk, file)
}

/// What 200 crashes of the same disk leave in the log.
fn outcomes(disk: &SimDisk) -> Vec<Option<Vec<u8>>> {
    (0..200)
        .map(|seed| {
            disk.crash(&mut fastrand::Rng::with_seed(seed))
                .contents(LOG.as_ref())
                .ok()
        })
        .collect()
}

#[test]
fn synced_bytes_survive_every_crash() {
    let (disk, file) = disk_with_log();
    file.write_all_at(&[7; 10_000], 0).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(&[8; 10_000], 10_000).unwrap();
    for bytes in outcomes(&disk) {
        assert_eq!(bytes.unwrap()[..10_000], [7; 10_000]);
    }
}

#[test]
fn unsynced_bytes_are_lost_or_kept_or_torn() {
    let (disk, file) = disk_with_log();
    file.write_all_at(&[8; 2048], 0).unwrap();
    let outcomes: Vec<_> = outcomes(&disk).into_iter().flatten().collect();
    assert!(outcomes.iter().any(Vec::is_empty), "lost");
    assert!(outcomes.iter().any(|bytes| bytes[..] == [8; 2048]), "kept");
    let torn = |bytes: &Vec<u8>| bytes.contains(&0) && bytes.last() == Some(&8);
    assert!(outcomes.iter().any(torn), "a later sector without an earlier one");
}

#[test]
fn the_order_of_unsynced_writes_means_nothing() {
    let (disk, file) = disk_with_log();
    file.write_all_at(&[0; 1024], 0).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(&[1], 0).unwrap();
    file.write_all_at(&[2], 512).unwrap();
    let second_alone = outcomes(&disk)
        .into_iter()
        .flatten()
        .any(|bytes| bytes[0] == 0 && bytes[512] == 2);
    assert!(second_alone);
}

#[test]
fn a_name_survives_for_certain_only_once_its_directory_is_synced() {
    let disk = SimDisk::default();
    let file = disk.create("/data/tmp".as_ref()).unwrap();
    file.write_all_at(b"x", 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir("/data".as_ref()).unwrap();
    disk.rename("/data/tmp".as_ref(), LOG.as_ref()).unwrap();
    assert!(outcomes(&disk).iter().any(Option::is_none) && outcomes(&disk).iter().any(Option::is_some));
    let (disk, _file) = disk_with_log();
    assert!(outcomes(&disk).iter().all(Option::is_some));
}

#[test]
fn a_full_disk_refuses_growth_and_takes_overwrites() {
    let (disk, file) = disk_with_log();
    disk.set_capacity(Some(8192));
    file.allocate(8192).unwrap();
    file.write_all_at(&[1; 8192], 0).unwrap();
    assert_eq!(
        file.write_all_at(&[1], 8192).unwrap_err().kind(),
        io::ErrorKind::StorageFull
    );
    assert_eq!(disk.used(), 8192);
    disk.remove(LOG.as_ref()).unwrap();
    disk.sync_dir("/data".as_ref()).unwrap();
    assert_eq!(disk.used(), 0);
}

#[test]
fn a_failed_sync_forgets_what_it_should_have_written() {
    let (disk, file) = disk_with_log();
    disk.fail_sync_after(1);
    file.sync_data().unwrap();
    file.write_all_at(b"gone", 0).unwrap();
    assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(EIO));
    file.sync_data().unwrap();
    assert_eq!(disk.contents(LOG.as_ref()).unwrap(), b"gone");
    for bytes in outcomes(&disk).into_iter().flatten() {
        assert!(!bytes.starts_with(b"gone"));
    }
}

#[test]
fn a_power_cut_ends_all_work_on_the_disk_and_frees_its_locks() {
    let (disk, file) = disk_with_log();
    let _lock = disk.lock("/data/LOCK".as_ref()).unwrap();
    assert_eq!(
        disk.lock("/data/LOCK".as_ref()).err().unwrap().kind(),
        io::ErrorKind::WouldBlock
    );
    disk.cut_power_after(1);
    file.write_all_at(b"a", 0).unwrap();
    assert!(file.sync_data().is_err() && file.len().is_err() && disk.list("/data".as_ref()).is_err());
    let after = disk.crash(&mut fastrand::Rng::with_seed(3));
    assert!(after.lock("/data/LOCK".as_ref()).is_ok());
}

#[test]
fn a_removed_file_can_be_read_through_its_open_handle() {
    let (disk, file) = disk_with_log();
    file.write_all_at(b"still", 0).unwrap();
    disk.remove(LOG.as_ref()).unwrap();
    let mut buf = [0; 5];
    file.read_exact_at(&mut buf, 0).unwrap();
    assert_eq!(
        (&buf, disk.list("/data".as_ref()).unwrap()),
        (b"still", Vec::<String>::new())
    );
}

#[test]
fn cutting_a_file_and_growing_it_again_reads_zeros() {
    let (disk, file) = disk_with_log();
    file.write_all_at(&[9; 6000], 0).unwrap();
    file.set_len(5000).unwrap();
    file.set_len(6000).unwrap();
    file.sync_data().unwrap();
    disk.flip_bit(LOG.as_ref(), 0, 0).unwrap();
    let bytes = disk.contents(LOG.as_ref()).unwrap();
    assert_eq!((bytes[0], bytes[4999], &bytes[5000..]), (8, 9, &[0; 1000][..]));
}
