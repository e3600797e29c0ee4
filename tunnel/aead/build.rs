//! Compiles the few lines of C that reach the macros of Intel's header, where the feature asks for it.

fn main() {
    println!("cargo:rerun-if-changed=src/ipsec_mb.c");
    #[cfg(feature = "ipsec-mb")]
    {
        cc::Build::new()
            .file("src/ipsec_mb.c")
            .warnings_into_errors(true)
            .compile("ipsx_ipsec_mb");
        println!("cargo:rustc-link-lib=IPSec_MB");
    }
}
