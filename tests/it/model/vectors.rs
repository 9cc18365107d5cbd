//! Positions computed with the reference implementation of XXH3 (version 0.8.4, through Python's `xxhash` 4.1.0): they
//! hold on every architecture and for every release, because other people's tools recompute them.

use crate::fixture::ring;

#[test]
fn positions_of_keys_are_those_of_the_reference_implementation() {
    let uuid = "db7cd8d3-4425-4fe7-8c81-01bf963b6067";
    for (salt, key, position) in [
        ("my-worker", &b"user-123"[..], 64_510),
        ("my-worker", b"user-456", 27_699),
        ("my-worker", b"a", 35_360),
        ("shop", b"user-123", 34_817),
        ("my-worker", uuid.as_bytes(), 90_060),
        ("my-worker", "Zürich".as_bytes(), 65_398),
        ("my-worker", b"\xff\xfe", 9_960),
    ] {
        assert_eq!(ring(salt, &[100_000]).position(key).index(), position, "{salt} {key:?}");
    }
}

/// XXH3 treats lengths up to 3, 8, 16, 128, 240 and above differently; the keys here lie on both sides of each bound.
#[test]
fn positions_of_every_length_class_are_those_of_the_reference_implementation() {
    const LENGTHS: [usize; 15] = [0, 1, 3, 4, 8, 9, 16, 17, 36, 128, 129, 240, 241, 512, 1025];
    let long = "x".repeat(300);
    let vectors: [(&str, [u32; 15]); 4] = [
        (
            "my-worker",
            [
                14607, 58976, 83040, 39572, 44476, 99702, 60946, 49940, 53383, 56846, 13704, 18045, 25392,
                31232, 2392,
            ],
        ),
        (
            "shop",
            [
                69883, 3352, 4521, 64700, 32695, 79111, 54809, 71647, 18028, 66504, 79961, 2392, 27452,
                70460, 59801,
            ],
        ),
        (
            "",
            [
                25462, 54058, 86208, 34703, 65695, 21598, 3063, 72645, 99110, 27083, 73073, 65646, 30423,
                65831, 31360,
            ],
        ),
        (
            &long,
            [
                90576, 35784, 62402, 95305, 97442, 11539, 60935, 72853, 14330, 99796, 91134, 9945, 26029,
                77764, 75910,
            ],
        ),
    ];
    for (salt, positions) in vectors {
        let ring = ring(salt, &[100_000]);
        for (length, position) in LENGTHS.into_iter().zip(positions) {
            let key: Vec<u8> = (0..length).map(|i| u8::try_from((i * 7 + 3) % 256).unwrap()).collect();
            assert_eq!(ring.position(&key).index(), position, "salt of {}, key of {length}", salt.len());
        }
    }
}
