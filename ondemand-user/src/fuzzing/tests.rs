//! The seeds, and mutations of them, on any compiler: a short form of fuzzing.

use std::{collections::BTreeSet, fs, path::PathBuf};

use super::{TARGETS, Target};

/// Mutations for each target. More with `ONDEMAND_FUZZ_MUTATIONS`.
const MUTATIONS: usize = 3_000;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// A generator of numbers with a fixed seed (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit.max(1)
    }
}

/// Bytes and words at which code breaks.
const SHARP: [&[u8]; 12] = [
    b"\0",
    b"\xff",
    b"\n",
    b"\r\n\r\n",
    b"\\",
    b"%",
    b"\"",
    b"-1",
    b"1e999",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\0\0\0\0\0\0\0\x80",
    b"18446744073709551615",
];

fn mutate(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut data = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(data.len() + 1);
        match random.below(6) {
            0 if at < data.len() => data[at] ^= 1 << random.below(8),
            1 => data.truncate(at),
            2 => {
                let sharp = SHARP[random.below(SHARP.len())];
                data.splice(at..at, sharp.iter().copied());
            }
            3 => {
                let sharp = SHARP[random.below(SHARP.len())];
                let end = data.len().min(at + sharp.len());
                data.splice(at..end, sharp.iter().copied());
            }
            4 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len() + 1);
                data.truncate(at);
                data.extend_from_slice(&other[from..]);
            }
            _ => {
                let end = data.len().min(at + random.below(32));
                data.drain(at..end);
            }
        }
    }
    data
}

fn seeds(name: &str) -> Vec<Vec<u8>> {
    let directory = directory().join("seeds").join(name);
    let mut files: Vec<PathBuf> = fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{name} has no seed");
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Runs one input; if it panics, prints the input.
fn run((name, target): Target, data: &[u8]) {
    struct Shown<'a>(&'a str, &'a [u8]);
    impl Drop for Shown<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("{} of b\"{}\"", self.0, self.1.escape_ascii());
            }
        }
    }
    let shown = Shown(name, data);
    target(data);
    drop(shown);
}

#[track_caller]
fn check(name: &str) {
    let target = TARGETS.into_iter().find(|(known, _)| *known == name);
    let target = target.expect("a target");
    let seeds = seeds(name);
    run(target, b"");
    for seed in &seeds {
        run(target, seed);
    }
    let wanted = std::env::var("ONDEMAND_FUZZ_MUTATIONS");
    let mutations = wanted.map_or(MUTATIONS, |count| count.parse().expect("a number"));
    let mut random = Random(0x0123_4567_89ab_cdef);
    for _ in 0..mutations {
        run(target, &mutate(&seeds, &mut random));
    }
}

macro_rules! targets {
    ($($name:ident)*) => { $(
        #[test]
        fn $name() {
            check(stringify!($name));
        }
    )* };
}

targets!(configuration events history holds http learned ledger sock_diag sockets trace units);

#[test]
fn the_fuzzer_has_every_target_and_no_other() {
    let files = fs::read_dir(directory().join("fuzz_targets")).unwrap();
    let files: BTreeSet<String> = files
        .map(|entry| entry.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(files, targets);
    let manifest = fs::read_to_string(directory().join("Cargo.toml")).unwrap();
    for name in &targets {
        let text = fs::read_to_string(directory().join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(
            text.contains(&format!("ondemand::fuzzing::{name}(")),
            "{text}"
        );
        assert!(manifest.contains(&format!("\nname = {name:?}\n")));
    }
}
