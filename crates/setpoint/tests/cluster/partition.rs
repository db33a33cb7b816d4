//! The links between the members break, one by one and all together, while clients reach every member.

use std::time::Duration;

use setpoint::envtest::TempDir;
use setpoint_flow::impair::Proxy;
use tokio::time::sleep;

use crate::Scene;
use crate::members::Members;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_while_links_between_members_break() {
    let dir = TempDir::new().unwrap();
    let members = Members::start_linked(dir.path(), 3).await;
    let endpoints = members.endpoints();
    let scene = Scene::start(&dir, [&endpoints, &endpoints]).await;
    let calm = |seconds| sleep(Duration::from_secs(seconds));
    calm(2).await;

    for (index, link) in members.links.iter().enumerate() {
        println!("nobody reaches member {index}; it reaches the others");
        link.refuse();
        calm(4).await;
        link.thaw();
        calm(2).await;
    }

    println!("what is sent to the leader arrives nowhere, and nobody is told");
    let leader = &members.links[members.leader().await];
    leader.freeze();
    calm(5).await;
    leader.thaw();
    // What was held back that long must not be believed: those connections are of no use.
    leader.cut();
    calm(2).await;

    println!("every member alone");
    members.links.iter().for_each(Proxy::refuse);
    calm(4).await;
    members.links.iter().for_each(Proxy::thaw);
    scene.ready_again().await;
    calm(2).await;
    scene.end(50).await;
}
