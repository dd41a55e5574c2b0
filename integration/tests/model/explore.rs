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
            "a" => c.transactions[0] = n(), "b" => c.transactions[1] = n(), "f" => c.foreign = n(),
            "ex" => c.exclusive = n() > 0, "rb" => c.roll_back = n() > 0, "size" => c.resize = n() > 0,
            "t" => c.targets = n() as usize, "c" => c.copiers = n() as usize, "rel" => c.release = n() > 0,
            "ob0" => c.offers_bound_zero = n() > 0, "clock" => c.coarse_clock = n() > 0,
            "kw" => c.budget.kill_writer = n(), "kc" => c.budget.kill_copier = n(), "kf" => c.budget.kill_foreign = n(),
            "ov" => c.budget.overflow = n(), "err" => c.budget.io_error = n(), "late" => c.budget.late_put = n(),
            "fail" => c.budget.failed_put = n(), "folder" => c.budget.lose_folder = n(), "log" => c.budget.lose_log = n(),
            "rec" => c.budget.lose_record = n(), "boot" => c.budget.reboot = n(),
            "max" => c.states_max = v.parse().unwrap(),
            "q" => verbose = false,
            "m" => { let g = GUARDS.iter().find(|g| format!("{:?}", g.0) == v).unwrap(); c.off = Off::only(g.0); }
            "all" => rest.push(v.to_owned()),
            _ => panic!("{k}"),
        }
    }
    let t0 = std::time::Instant::now();
    let o = Checker::new(&c).run();
    let t = t0.elapsed();
    match o.verdict {
        Verdict::Passed => println!("passed states={} depth={} {t:.1?}", o.states, o.depth),
        Verdict::Limit => println!("LIMIT states={} depth={} {t:.1?}", o.states, o.depth),
        Verdict::Refuted { what, trace } => {
            println!("REFUTED {what} states={} depth={} {t:.1?}", o.states, o.depth);
            if verbose { for l in trace { println!("   {l}"); } }
        }
    }
}
