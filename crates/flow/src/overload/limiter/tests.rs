//! Places under many hands: none is lost, none is given twice.

use futures_util::FutureExt as _;
use futures_util::future::join_all;

use super::*;
use crate::core::limit::Law;
use crate::overload::Find;
use crate::rules::Per;

fn limiter(limit: u32, queue: u32) -> Arc<Limiter> {
    Arc::new(Limiter::new(
        &rule(Find::fixed(limit), queue),
        Counters::default(),
    ))
}

fn rule(limit: Find, queue: u32) -> Concurrency {
    Concurrency {
        name: "r".to_owned(),
        methods: Vec::new(),
        per: Per::Global,
        limit,
        min: None,
        max: None,
        queue: Some(queue),
        wait: None,
    }
}

fn idle(limiter: &Limiter) -> bool {
    let now = limiter.now();
    now.in_flight == 0 && now.waiting == [0; 3]
}

#[tokio::test(start_paused = true)]
async fn who_waits_gets_the_place_that_becomes_free() {
    let limiter = limiter(1, 1);
    let first = limiter.enter(Class::Interactive).await.unwrap();
    let mut second = std::pin::pin!(limiter.enter(Class::Interactive));
    assert!(second.as_mut().now_or_never().is_none());
    drop(first);
    let second = second.await.unwrap();
    assert_eq!(limiter.now().in_flight, 1);
    second.finish(Outcome::Served);
    assert!(idle(&limiter));
    assert_eq!(limiter.counters.read(), [[0, 2, 0], [0; 3], [0, 1, 0]]);
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_refused_and_told_when_to_come_again() {
    let limiter = limiter(1, 1);
    let _held = limiter.enter(Class::Batch).await.unwrap();
    let began = Instant::now();
    let refused = limiter.enter(Class::Batch).await.unwrap_err();
    assert!(began.elapsed() >= Duration::from_millis(5) && began.elapsed() < Duration::from_millis(50));
    assert_eq!(
        (refused.cause, refused.retry_after),
        (Cause::Concurrency, RETRY_MIN)
    );
    assert_eq!(limiter.now().waiting, [0; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_at_once_whoever_matters_least() {
    let limiter = limiter(1, 1);
    let _held = limiter.enter(Class::Interactive).await.unwrap();
    let began = Instant::now();
    let (batch, interactive, another) = tokio::join!(
        limiter.enter(Class::Batch),
        limiter.enter(Class::Interactive),
        limiter
            .enter(Class::Interactive)
            .map(|refused| (refused, began.elapsed())),
    );
    assert!(batch.is_err() && interactive.is_err());
    assert_eq!((another.0.is_err(), another.1), (true, Duration::ZERO));
    assert_eq!(limiter.counters.read()[1], [0, 2, 1]);
}

#[tokio::test(start_paused = true)]
async fn who_goes_while_it_waits_takes_nothing_with_it() {
    let limiter = limiter(1, 8);
    let held = limiter.enter(Class::Interactive).await.unwrap();
    let mut waiting: Vec<_> = (0..8)
        .map(|_| Box::pin(limiter.enter(Class::Interactive)))
        .collect();
    for one in &mut waiting {
        assert!(one.as_mut().now_or_never().is_none());
    }
    assert_eq!(limiter.now().waiting, [0, 8, 0]);
    waiting.truncate(3);
    assert_eq!(limiter.now().waiting, [0, 3, 0]);
    drop(held);
    // The last of them has the place, and does not know yet.
    drop(waiting.pop());
    assert_eq!((limiter.now().in_flight, limiter.now().waiting), (1, [0, 1, 0]));
    drop(waiting);
    assert!(idle(&limiter));
}

#[tokio::test(start_paused = true)]
async fn a_changed_rule_lets_in_those_who_wait() {
    let limiter = limiter(1, 8);
    let _held = limiter.enter(Class::Interactive).await.unwrap();
    let mut waiting: Vec<_> = (0..4)
        .map(|_| Box::pin(limiter.enter(Class::Interactive)))
        .collect();
    for one in &mut waiting {
        assert!(one.as_mut().now_or_never().is_none());
    }
    limiter.change(&rule(Find::fixed(5), 8));
    let got = join_all(waiting).await;
    assert!(got.iter().all(Result::is_ok));
    assert_eq!(limiter.now().in_flight, 5);
    limiter.change(&rule(Find::by(Law::Vegas), 8));
    assert_eq!((limiter.now().law, limiter.now().in_flight), ("vegas", 5));
}

#[tokio::test(start_paused = true)]
async fn what_was_ignored_teaches_nothing() {
    for (outcome, learns) in [(Outcome::Ignored, false), (Outcome::Served, true)] {
        let limiter = Arc::new(Limiter::new(&rule(Find::default(), 0), Counters::default()));
        for _ in 0..50 {
            let permit = limiter.enter(Class::Interactive).await.unwrap();
            tokio::time::advance(Duration::from_millis(10)).await;
            permit.finish(outcome);
        }
        assert_eq!(limiter.now().rtt.is_some(), learns, "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_threads_never_pass_the_limit_and_leave_nothing_behind() {
    const LIMIT: u32 = 3;
    let limiter = limiter(LIMIT, 16);
    let inside = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..2_000_u32 {
        let (limiter, inside) = (Arc::clone(&limiter), Arc::clone(&inside));
        calls.spawn(async move {
            let class = [Class::Interactive, Class::Batch][n as usize % 2];
            let enter = limiter.enter(class);
            // Some go before they are told.
            let got = if n % 5 == 0 {
                timeout(Duration::from_micros(u64::from(n % 700)), enter)
                    .await
                    .ok()
            } else {
                Some(enter.await)
            };
            let Some(Ok(permit)) = got else {
                return 0;
            };
            let now = inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
            tokio::task::yield_now().await;
            inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
            permit.finish(Outcome::Served);
            now
        });
    }
    let most = calls.join_all().await.into_iter().max();
    assert!(most >= Some(1) && most <= Some(LIMIT), "{most:?}");
    assert!(idle(&limiter), "{:?}", limiter.now());
}
