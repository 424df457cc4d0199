//! Damages models at random and loads and runs what the inspection lets through, to see whether ONNX Runtime survives it:
//! `damaged_models FIRST COUNT MODEL...`. Prints each round before it begins, so that the last line names the round that ended the process;
//! with `KEEP=FILE` each model is written there before it is loaded.

use std::io::Write;

use millrace_engine::{LoadOptions, Model};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [first, count, paths @ ..] = words.as_slice() else {
        eprintln!("damaged_models FIRST COUNT MODEL...");
        return;
    };
    let (first, count): (u64, u64) = (first.parse().expect("a number"), count.parse().expect("a number"));
    let models: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).expect("a file")).collect();
    let (mut loaded, mut refused) = (0, 0);
    for round in first..first + count {
        let mut random = Random(round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut bytes = models[random.below(models.len())].clone();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            bytes[at] = random.below(256) as u8;
        }
        eprint!("\r{round} ");
        _ = std::io::stderr().flush();
        if let Some(path) = std::env::var_os("KEEP") {
            std::fs::write(path, &bytes).expect("it can be written");
        }
        match Model::load(&bytes, None, LoadOptions::default()) {
            Ok(mut model) => {
                loaded += 1;
                _ = model.warm_up();
            }
            Err(_) => refused += 1,
        }
    }
    println!("{count} rounds: {loaded} loaded, {refused} refused");
}

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end.max(1) as u64) as usize
    }
}
