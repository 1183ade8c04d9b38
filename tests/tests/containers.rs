//! Three containers with Compose: convergence, a leader's container stopped and started, a node cut off from its network.
//! Skipped, with a line that says so, where there is no Docker with Compose, or no make.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::{DEADLINE, eventually, free_port, http, kv};
use serde_json::Value;

/// Runs a command to its end, however long that takes.
fn run(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match output.status.success() {
        true => Ok(text),
        false => Err(format!("{command:?}: {text} {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

fn must(command: &mut Command) -> String {
    run(command).unwrap_or_else(|error| panic!("{error}"))
}

fn docker(args: &[&str]) -> Command {
    let mut command = Command::new("docker");
    command.args(args);
    command
}

/// Compose as a plugin or as a program of its own.
fn compose() -> Option<Vec<&'static str>> {
    let forms = [vec!["docker", "compose"], vec!["docker-compose"]];
    forms.into_iter().find(|form| run(Command::new(form[0]).args(&form[1..]).arg("version")).is_ok())
}

/// A project of the test's own; dropping it removes its containers, network, volumes and image.
struct Project {
    compose: Vec<&'static str>,
    name: String,
    ports: [u16; 3],
}

impl Project {
    fn start() -> Option<Self> {
        let skipped = |why: &str| {
            println!("SKIPPED: {why}");
            None
        };
        if let Err(error) = run(&mut docker(&["info", "--format", "{{.ServerVersion}}"])) {
            return skipped(&format!("there is no Docker here: {error}"));
        }
        let Some(compose) = compose() else { return skipped("there is no Docker Compose here") };
        if let Err(error) = run(Command::new("make").arg("--version")) {
            return skipped(&format!("there is no make here: {error}"));
        }
        let name = format!("quorate-e2e-{}", std::process::id());
        let project = Self { compose, name, ports: [free_port(), free_port(), free_port()] };
        must(project.in_root(Command::new("make").args(["image", &format!("IMAGE={}", project.name)])));
        project.compose(&["up", "-d"]);
        Some(project)
    }

    /// In the workspace, with a target directory that the build that runs us does not lock.
    fn in_root<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        command.current_dir(root).env_remove("CARGO_TARGET_DIR").env("QUORATE_IMAGE", &self.name);
        for (index, port) in self.ports.iter().enumerate() {
            command.env(format!("QUORATE_PORT_{}", index + 1), port.to_string());
        }
        command
    }

    fn compose(&self, args: &[&str]) -> String {
        let mut command = Command::new(self.compose[0]);
        command.args(&self.compose[1..]).args(["--project-name", &self.name]).args(args);
        must(self.in_root(&mut command))
    }

    fn container(&self, index: usize) -> String {
        self.compose(&["ps", "--quiet", &format!("n{}", index + 1)])
    }

    /// Who leads, if all of these say the same and that it is one of them.
    fn leader(&self, of: &[usize]) -> Result<usize, String> {
        let mut agreed = None;
        for &index in of {
            let answer = http::get(self.ports[index], "/cluster/nodes")?;
            let body: Value = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
            let nodes = body["nodes"].as_array().into_iter().flatten();
            let leaders: Vec<_> = nodes.filter(|node| node["status"] == "leader").collect();
            let name = |index: usize| format!("n{}", index + 1);
            let leader = match leaders.as_slice() {
                [leader] => of.iter().copied().find(|index| leader["name"] == name(*index).as_str()),
                _ => None,
            };
            if leader.is_none() || *agreed.get_or_insert(leader) != leader {
                return Err(format!("{} says {body}", name(index)));
            }
        }
        agreed.flatten().ok_or_else(|| "nobody was asked".to_owned())
    }

    fn wait_leader(&self, of: &[usize]) -> usize {
        eventually(&format!("{of:?} agree on a leader among them"), DEADLINE, || self.leader(of))
    }

    fn put(&self, through: usize, key: &str, value: &str) {
        let mut client = kv::Client::new(self.ports[through], Duration::from_secs(10));
        eventually(&format!("a write through n{}", through + 1), DEADLINE, || client.put(key, value).done());
    }

    fn sees(&self, through: usize, key: &str, value: &str) {
        let mut client = kv::Client::new(self.ports[through], Duration::from_secs(10));
        eventually(&format!("n{} has {key}", through + 1), DEADLINE, || {
            match client.get(key, false).done()?.found.map(|item| item.value) {
                Some(found) if found == value => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.compose(&["logs", "--tail", "40"]));
        }
        self.compose(&["down", "--volumes", "--timeout", "20"]);
        must(&mut docker(&["image", "rm", "--force", &self.name]));
    }
}

#[test]
fn three_containers() {
    let Some(project) = Project::start() else { return };

    // Convergence: all three agree on one leader.
    let all = [0, 1, 2];
    let others = |left: usize| -> Vec<usize> { all.into_iter().filter(|index| *index != left).collect() };
    let first = project.wait_leader(&all);
    project.put((first + 1) % 3, "a", "1");

    // Failover: the leader's container is stopped, the survivors elect another one.
    let name = format!("n{}", first + 1);
    project.compose(&["stop", &name]);
    let exit = must(&mut docker(&["inspect", "--format", "{{.State.ExitCode}}", &project.container(first)]));
    assert_eq!(exit, "0", "it stops in an orderly way, though it is process 1");
    let survivors = others(first);
    let second = project.wait_leader(&survivors);
    project.put(survivors[0], "b", "2");

    // The stopped one comes back, with its data, and catches up.
    project.compose(&["start", &name]);
    project.wait_leader(&all);
    project.sees(first, "a", "1");
    project.sees(first, "b", "2");

    // Partition: the leader is cut off from the network. It is asked from inside, where nobody else can.
    let cut = project.leader(&all).unwrap_or(second);
    let (network, container) = (format!("{}_default", project.name), project.container(cut));
    must(&mut docker(&["network", "disconnect", &network, &container]));
    let majority = others(cut);
    let third = project.wait_leader(&majority);
    assert_ne!(third, cut);
    project.put(majority[0], "c", "3");
    let listed = || run(&mut docker(&["exec", &container, "/quorate", "member", "list"]));
    eventually("it sees nobody", DEADLINE, || {
        let listed = listed()?;
        if listed.matches(" unreachable ").count() == 2 { Ok(()) } else { Err(listed) }
    });

    must(&mut docker(&["network", "connect", "--alias", &format!("n{}", cut + 1), &network, &container]));
    eventually("it follows again", DEADLINE, || {
        let listed = listed()?;
        match listed.lines().filter(|line| line.contains(" follower ")).count() == 2 && !listed.contains("unreachable")
        {
            true => Ok(()),
            false => Err(listed),
        }
    });
    project.wait_leader(&majority);
    project.sees(majority[1], "c", "3");
}
