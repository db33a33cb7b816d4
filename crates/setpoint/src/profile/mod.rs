//! Where this process spends its time, as a profile that Go's `pprof` opens.
//!
//! A timer interrupts whatever runs, a hundred times for each second of processor time, and notes the stack; that is the
//! crate `pprof`. Here stacks become the profile: every address with the file it belongs to, so that a program that was
//! stripped of its names can be given them by `pprof` from one that was not, and the names that the program itself has.
//!
//! - `maps`: which addresses belong to which file. `proto`: the format.

mod maps;
mod proto;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use pprof::{ProfilerGuardBuilder, UnresolvedReport};
use prost::Message;
use setpoint_store::etcd::Profiler;

use maps::Maps;
use proto::{Function, Line, Location, Profile, Sample, ValueType};

/// Stacks noted for each second of processor time, as in Go.
const FREQUENCY: i32 = 100;

/// Takes CPU profiles of this process, one at a time.
#[derive(Clone, Debug, Default)]
pub(crate) struct CpuProfiler {
    busy: Arc<AtomicBool>,
}

/// Nobody else profiles while this is there.
struct Turn(Arc<AtomicBool>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Profiler for CpuProfiler {
    fn cpu(&self, time: Duration) -> BoxFuture<'static, Result<Vec<u8>, String>> {
        let busy = Arc::clone(&self.busy);
        Box::pin(async move {
            if busy.swap(true, Ordering::AcqRel) {
                return Err("cpu profiling already in use".to_owned());
            }
            let turn = Turn(busy);
            let sampling = ProfilerGuardBuilder::default()
                .frequency(FREQUENCY)
                // Their stacks cannot be walked safely from a signal.
                .blocklist(&["libgcc", "pthread", "vdso"])
                .build()
                .map_err(|error| error.to_string())?;
            tokio::time::sleep(time).await;
            let made = tokio::task::spawn_blocking(move || {
                let report = sampling.report().build_unresolved();
                drop((sampling, turn));
                report.map(|report| profile(&report).encode_to_vec())
            });
            let made = made.await.map_err(|error| error.to_string())?;
            made.map_err(|error| error.to_string())
        })
    }
}

/// The profile that is being put together.
#[derive(Default)]
struct Making {
    profile: Profile,
    strings: HashMap<String, i64>,
    locations: HashMap<u64, u64>,
    functions: HashMap<(i64, i64), u64>,
    maps: Maps,
}

fn profile(report: &UnresolvedReport) -> Profile {
    let mut making = Making {
        maps: Maps::of_this_process(),
        ..Making::default()
    };
    let period = i64::from(1_000_000_000 / FREQUENCY);
    // The format wants the empty string first.
    making.string("");
    let (samples, count) = (making.string("samples"), making.string("count"));
    let (cpu, nanoseconds) = (making.string("cpu"), making.string("nanoseconds"));
    let of = |kind, unit| ValueType { kind, unit };
    making.profile.sample_type = vec![of(samples, count), of(cpu, nanoseconds)];
    making.profile.period_type = Some(of(cpu, nanoseconds));
    making.profile.period = period;
    let timing = &report.timing;
    let began = timing.start_time.duration_since(UNIX_EPOCH).unwrap_or_default();
    making.profile.time_nanos = nanos(began);
    making.profile.duration_nanos = nanos(timing.duration);
    making.mappings();
    for (stack, count) in &report.data {
        let count = i64::try_from(*count).unwrap_or(i64::MAX);
        // The outermost frame of a thread may have no address.
        let addresses: Vec<u64> = stack
            .frames
            .iter()
            .map(|frame| frame.ip() as u64)
            .filter(|address| *address > 0)
            .collect();
        let own = making.maps.interrupted(&addresses);
        let location_id = addresses[own..]
            .iter()
            .enumerate()
            // Callers are known by where they go on; the call is before that.
            .map(|(n, address)| making.location(address - u64::from(n > 0)))
            .collect();
        making.profile.sample.push(Sample {
            location_id,
            value: vec![count, count * period],
        });
    }
    making.profile
}

fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

impl Making {
    /// The number of a string.
    fn string(&mut self, text: &str) -> i64 {
        if let Some(number) = self.strings.get(text) {
            return *number;
        }
        let number = i64::try_from(self.profile.string_table.len()).unwrap_or(i64::MAX);
        self.profile.string_table.push(text.to_owned());
        self.strings.insert(text.to_owned(), number);
        number
    }

    fn mappings(&mut self) {
        for (id, map) in (1..).zip(self.maps.clone().iter()) {
            let filename = self.string(&map.file);
            self.profile.mapping.push(proto::Mapping {
                id,
                memory_start: map.start,
                memory_limit: map.end,
                file_offset: map.offset,
                filename,
            });
        }
    }

    /// The number of an address.
    fn location(&mut self, address: u64) -> u64 {
        if let Some(id) = self.locations.get(&address) {
            return *id;
        }
        let mut line = Vec::new();
        // Inlined functions come first, as the format wants them.
        backtrace::resolve(address as *mut std::ffi::c_void, |symbol| {
            let Some(name) = symbol.name() else { return };
            let file = symbol.filename().map(|file| file.display().to_string());
            let function_id = self.function(&format!("{name:#}"), &file.unwrap_or_default());
            line.push(Line {
                function_id,
                line: symbol.lineno().map_or(0, i64::from),
            });
        });
        let id = self.profile.location.len() as u64 + 1;
        self.profile.location.push(Location {
            id,
            mapping_id: self.maps.number(address),
            address,
            line,
        });
        self.locations.insert(address, id);
        id
    }

    fn function(&mut self, name: &str, file: &str) -> u64 {
        let key = (self.string(name), self.string(file));
        if let Some(id) = self.functions.get(&key) {
            return *id;
        }
        let id = self.profile.function.len() as u64 + 1;
        self.profile.function.push(Function {
            id,
            name: key.0,
            system_name: key.0,
            filename: key.1,
        });
        self.functions.insert(key, id);
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Burns time where the profile can see it.
    #[inline(never)]
    fn busy_bee(until: &AtomicBool) -> u64 {
        let mut sum = 0_u64;
        while !until.load(Ordering::Relaxed) {
            sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
        sum
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_profile_names_the_function_that_took_the_time_and_there_is_one_at_a_time() {
        let (profiler, stop) = (CpuProfiler::default(), Arc::new(AtomicBool::new(false)));
        let bee = {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || busy_bee(&stop))
        };
        let second = async {
            while !profiler.busy.load(Ordering::Acquire) {
                tokio::task::yield_now().await;
            }
            profiler.cpu(Duration::from_secs(2)).await
        };
        let (first, second) = tokio::join!(profiler.cpu(Duration::from_secs(2)), second);
        assert_eq!(second, Err("cpu profiling already in use".to_owned()));
        let bytes = first.unwrap();
        stop.store(true, Ordering::Relaxed);
        bee.join().unwrap();
        assert!(!profiler.busy.load(Ordering::Acquire));

        let profile = Profile::decode(&bytes[..]).unwrap();
        assert_eq!(profile.string_table[0], "");
        let name = |id: u64| {
            let function = &profile.function[id as usize - 1];
            &profile.string_table[function.name as usize]
        };
        // The innermost frame of a sample is the code that ran, not the signal that noted it.
        let at_work = profile.sample.iter().filter(|sample| {
            let innermost = sample.location_id.first().copied().unwrap_or(0);
            let location = profile.location.iter().find(|location| location.id == innermost);
            location.is_some_and(|location| {
                location
                    .line
                    .iter()
                    .any(|line| name(line.function_id).contains("busy_bee"))
            })
        });
        let at_work: i64 = at_work.map(|sample| sample.value[0]).sum();
        // Other tests run in this process: how much of it is theirs is not known.
        assert!(at_work > 0, "{} samples, none of them", profile.sample.len());
        for location in &profile.location {
            assert!(location.mapping_id as usize <= profile.mapping.len());
        }
    }
}
