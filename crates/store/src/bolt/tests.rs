//! What is written reads back; what was damaged, cut or made to harm is refused.

use super::*;

/// Pages in memory.
struct Memory(Vec<u8>);

impl Pages for Memory {
    type Error = std::convert::Infallible;
    const KEEPS: bool = true;

    fn page(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

fn build<P: Pages>(entries: &Entries, page: u64, pages: &mut P) -> Result<(Option<u64>, u64), P::Error> {
    let mut tree = Tree::new(page);
    for (key, value) in entries {
        tree.push(key, value.len(), |out| out.extend_from_slice(value), pages)?;
    }
    tree.finish(pages)
}

/// A file with these buckets, in the order of their names.
fn file(buckets: &[(&[u8], Entries)]) -> Vec<u8> {
    let (mut next, mut roots) = (HEAD_PAGES, Vec::new());
    for (name, entries) in buckets {
        let (root, end) = build(entries, next, &mut Count).unwrap();
        roots.push((*name, root));
        next = end;
    }
    let mut memory = Memory(head(&roots, next));
    let mut at = HEAD_PAGES;
    for ((_, entries), (_, planned)) in buckets.iter().zip(&roots) {
        let (root, end) = build(entries, at, &mut memory).unwrap();
        assert_eq!(root, *planned);
        at = end;
    }
    assert_eq!(memory.0.len() as u64, next * PAGE as u64);
    memory.0
}

fn read(bytes: &[u8], name: &[u8]) -> Result<Option<Entries>, Problem> {
    let reader = Reader::open(bytes, bytes.len() as u64)?;
    let mut entries = Entries::new();
    let there = reader.bucket(name, &mut |key, value| {
        entries.push((key.to_vec(), value.to_vec()));
        Ok::<_, Problem>(true)
    })?;
    Ok(there.then_some(entries))
}

/// Entries whose values have lengths that a page holds well, badly, and not at all.
fn many(count: u32) -> Entries {
    let value = |n: u32| vec![n as u8; [10, 700, 0, 3_000, 90, 20_000][n as usize % 6]];
    (0..count).map(|n| (n.to_be_bytes().to_vec(), value(n))).collect()
}

#[test]
fn what_was_written_reads_back_over_several_levels() {
    for count in [0, 1, 2, 3, 200, 3_000] {
        let entries = many(count);
        let bytes = file(&[(b"a", Vec::new()), (b"key", entries.clone()), (b"z", many(1))]);
        assert_eq!(read(&bytes, b"key").unwrap(), Some(entries), "{count}");
        assert_eq!(read(&bytes, b"a").unwrap(), Some(Vec::new()));
        assert_eq!(read(&bytes, b"z").unwrap(), Some(many(1)));
        assert_eq!(read(&bytes, b"no such bucket").unwrap(), None);
    }
}

#[test]
fn keys_larger_than_a_page_still_make_a_tree_that_ends() {
    let entries: Entries = (0..20_u8).map(|n| (vec![n; 9_000], vec![n; 3])).collect();
    let bytes = file(&[(b"key", entries.clone())]);
    assert_eq!(read(&bytes, b"key").unwrap(), Some(entries));
}

#[test]
fn a_file_that_is_cut_anywhere_is_refused() {
    let bytes = file(&[(b"key", many(60))]);
    for len in (0..bytes.len()).step_by(97) {
        let problem = read(&bytes[..len], b"key").expect_err("it is cut off");
        assert!(
            matches!(problem, Problem::NoMeta | Problem::Truncated { .. }),
            "{len}: {problem}"
        );
    }
}

#[test]
fn a_damaged_first_meta_page_leaves_the_second() {
    let entries = many(30);
    let mut bytes = file(&[(b"key", entries.clone())]);
    bytes[20] ^= 1;
    assert_eq!(read(&bytes, b"key").unwrap(), Some(entries));
    bytes[PAGE + 20] ^= 1;
    assert!(matches!(read(&bytes, b"key"), Err(Problem::NoMeta)));
}

#[test]
fn a_cycle_of_pages_ends_with_an_error() {
    let mut bytes = file(&[(
        b"key",
        (0..2_000_u32)
            .map(|n| (n.to_be_bytes().to_vec(), vec![1; 99]))
            .collect(),
    )]);
    let root = bytes.len() - PAGE;
    let id = u64::from_le_bytes(bytes[root..root + 8].try_into().unwrap());
    // The root's first child is the root.
    bytes[root + 16 + 8..root + 16 + 16].copy_from_slice(&id.to_le_bytes());
    let problem = read(&bytes, b"key").expect_err("it has no end");
    assert!(problem.to_string().contains("too deep"), "{problem}");
}

#[test]
fn any_changed_bytes_give_entries_or_an_error_and_never_a_panic() {
    let original = file(&[(b"key", many(40)), (b"lease", many(3))]);
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..20_000 {
        let mut bytes = original.clone();
        for _ in 0..random.usize(1..6) {
            // Most of the structure lies in the first bytes of pages.
            let page = random.usize(0..bytes.len() / PAGE) * PAGE;
            let at = page + random.usize(0..if round % 2 == 0 { 96 } else { PAGE });
            bytes[at] = if random.bool() { random.u8(..) } else { 0xff };
        }
        if random.u8(..) < 20 {
            bytes.truncate(random.usize(0..bytes.len()));
        }
        let _ = read(&bytes, b"key");
        let _ = read(&bytes, b"lease");
    }
}
