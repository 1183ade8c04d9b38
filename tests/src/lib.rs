//! Tests of Quorate from outside: real processes, real sockets, real disks. See the `tests` folder.
