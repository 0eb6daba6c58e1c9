package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// cpuOf is the CPU time that a process and its threads have taken so far, by the
// clock that the kernel keeps for it; 0 for a process that is gone.
func cpuOf(pid int) time.Duration {
	const scheduled = 2 // CPUCLOCK_SCHED of the kernel: user and system, in nanoseconds
	var taken unix.Timespec
	if unix.ClockGettime(int32(^pid<<3|scheduled), &taken) != nil {
		return 0
	}
	return time.Duration(taken.Nano())
}
