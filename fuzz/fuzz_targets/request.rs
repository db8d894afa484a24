//! Requests, in pieces: nothing panics, every split gives the same requests or the same error, and what was
//! framed can be looked up, keyed and cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use slotmux::command::{Route, Spec, resolve};
use slotmux::protocol::{Args, RequestFramer, RequestLimits};
use slotmux::route::plan::{self, Groups, Keys};

const LIMITS: RequestLimits = RequestLimits { arguments: 1000, bytes: 1 << 20, unauthenticated: false };

/// The lengths of the requests, and the error that ended them.
fn frame(bytes: &[u8], piece: usize) -> (Vec<usize>, Option<Vec<u8>>) {
    let (mut framer, mut buffer, mut lengths) = (RequestFramer::default(), Vec::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            match framer.next(&buffer, &LIMITS) {
                Ok(None) => break,
                Ok(Some(framed)) => {
                    let args = framer.args(framed.rewritten.as_deref().unwrap_or(&buffer));
                    if let Ok(spec) = resolve(&args) {
                        let _ = spec.placement(&args);
                        let _ = plan::slot(spec, &args);
                        if spec.route == Route::Split {
                            cut(spec, &args);
                        }
                    }
                    lengths.push(framed.len);
                    buffer.drain(..framed.len);
                }
                Err(error) => {
                    let mut text = Vec::new();
                    error.write(&mut text);
                    return (lengths, Some(text));
                }
            }
        }
    }
    (lengths, None)
}

/// Every part is a whole request of the same command, and all keys are in one of them.
fn cut(spec: &'static Spec, args: &Args<'_>) {
    let (Ok(groups), Ok(mut keys)) = (Groups::of(spec, args), Keys::of(spec, args)) else { return };
    let (many, order) = std::iter::from_fn(|| Some(keys.group(args, 3))).flatten().next().expect("it ends");
    assert_eq!(format!("{many:?} {order:?}"), format!("{groups:?} {:?}", groups.order()));
    let mut count = 0;
    for group in groups.iter() {
        let (mut part, mut framer) = (Vec::new(), RequestFramer::default());
        groups.write(args, group, &mut part);
        assert!(
            framer
                .next(&part, &RequestLimits::NONE)
                .is_ok_and(|framed| framed.is_some_and(|f| f.len == part.len()))
        );
        assert!(resolve(&framer.args(&part)).is_ok_and(|found| found.id == spec.id));
        count += group.len();
    }
    assert_eq!((groups.keys(), groups.order().len()), (count, count));
}

fuzz_target!(|input: &[u8]| {
    let Some((&piece, bytes)) = input.split_first() else { return };
    let whole = frame(bytes, bytes.len().max(1));
    assert_eq!(frame(bytes, usize::from(piece).max(1)), whole);
    assert_eq!(frame(bytes, 1), whole);
});
