use crate::checker::*;
use crate::configurations::*;
use crate::guards::*;
pub fn main() {
    let mut c = CONFIGURATIONS[0];
    let mut verbose = true;
    let mut rest = vec![];
    for a in std::env::args().skip(1) {
        let (k, v) = a.split_once('=').unwrap();
        let n = || v.parse::<u8>().unwrap();
        match k {
            "cfg" => {
                c = *CONFIGURATIONS.iter().find(|c| c.name == v).unwrap();
            }
            "a" => c.transactions[0] = n(),
            "b" => c.transactions[1] = n(),
            "f" => c.foreign = n(),
            "ex" => c.exclusive = n() > 0,
            "rb" => c.roll_back = n() > 0,
            "size" => c.resize = n() > 0,
            "t" => c.targets = n() as usize,
            "c" => c.copiers = n() as usize,
            "rel" => c.release = n() > 0,
            "go" => c.begun = n() > 0,
            "co" => c.coarse = n() > 0,
            "sec" => c.sections = n() > 0,
            "ob0" => c.offers_bound_zero = n() > 0,
            "clock" => c.coarse_clock = n() > 0,
            "kw" => c.budget.kill_writer = n(),
            "kc" => c.budget.kill_copier = n(),
            "kf" => c.budget.kill_foreign = n(),
            "ov" => c.budget.overflow = n(),
            "err" => c.budget.io_error = n(),
            "late" => c.budget.late_put = n(),
            "fail" => c.budget.failed_put = n(),
            "folder" => c.budget.lose_folder = n(),
            "log" => c.budget.lose_log = n(),
            "rec" => c.budget.lose_record = n(),
            "boot" => c.budget.reboot = n(),
            "max" => c.states_max = v.parse().unwrap(),
            "q" => verbose = false,
            "m" => {
                let g = GUARDS.iter().find(|g| format!("{:?}", g.0) == v).unwrap();
                c.off = Off::only(g.0);
            }
            "all" => rest.push(v.to_owned()),
            _ => panic!("{k}"),
        }
    }
    if !rest.is_empty() {
        return sweep(&rest[0], c.states_max, c.off);
    }
    let t0 = std::time::Instant::now();
    let o = Checker::new(&c).run();
    let t = t0.elapsed();
    match o.verdict {
        Verdict::Passed => println!("passed states={} depth={} {t:.1?}", o.states, o.depth),
        Verdict::Limit => println!("LIMIT states={} depth={} {t:.1?}", o.states, o.depth),
        Verdict::Refuted { what, trace } => {
            println!(
                "REFUTED {what} states={} depth={} {t:.1?}",
                o.states, o.depth
            );
            if verbose {
                for l in trace {
                    println!("   {l}");
                }
            }
        }
    }
}

fn sweep(which: &str, max: usize, only: Off) {
    use std::sync::Mutex;
    let jobs: Vec<(usize, Option<Guard>)> = match which {
        "base" => (0..CONFIGURATIONS.len()).map(|i| (i, None)).collect(),
        _ => GUARDS
            .iter()
            .filter(|g| only == Off::NONE || only.lacks(g.0))
            .map(|g| (0, Some(g.0)))
            .collect(),
    };
    let queue = Mutex::new(jobs.into_iter());
    std::thread::scope(|sc| {
        for _ in 0..2 {
            sc.spawn(|| {
                loop {
                    let Some((i, g)) = queue.lock().unwrap().next() else {
                        return;
                    };
                    let run = |i: usize, off: Off| {
                        let c = Configuration {
                            off,
                            states_max: max,
                            ..CONFIGURATIONS[i]
                        };
                        let t = std::time::Instant::now();
                        let o = Checker::new(&c).run();
                        (o, t.elapsed())
                    };
                    match g {
                        None => {
                            let (o, t) = run(i, Off::NONE);
                            println!(
                                "{:40} {:9} depth {:3} {:6.1?} {}",
                                CONFIGURATIONS[i].name,
                                o.states,
                                o.depth,
                                t,
                                match &o.verdict {
                                    Verdict::Passed => "passed".into(),
                                    Verdict::Limit => "LIMIT".into(),
                                    Verdict::Refuted { what, trace } =>
                                        format!("REFUTED {what}\n   {}", trace.join("\n   ")),
                                }
                            );
                        }
                        Some(g) => {
                            let mut best: Option<(usize, usize, String)> = None;
                            let mut lim = vec![];
                            for i in 0..CONFIGURATIONS.len() {
                                let cap = best.as_ref().map_or(max, |b| b.1);
                                let c = Configuration {
                                    off: Off::only(g),
                                    states_max: cap,
                                    ..CONFIGURATIONS[i]
                                };
                                let o = Checker::new(&c).run();
                                match o.verdict {
                                    Verdict::Refuted { what, .. } => {
                                        best = Some((i, o.states, what));
                                        if o.states < 400_000 {
                                            break;
                                        }
                                    }
                                    Verdict::Limit => lim.push(i),
                                    _ => {}
                                }
                            }
                            match best {
                                Some((i, n, w)) => {
                                    println!("{g:?} => {:?} {n} {w}", CONFIGURATIONS[i].name)
                                }
                                None => println!("{g:?} NOT REFUTED (limits {lim:?})"),
                            }
                        }
                    }
                }
            });
        }
    });
}
