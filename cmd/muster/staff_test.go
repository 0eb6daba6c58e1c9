package main

import (
	"sync"
	"testing"
)

func TestStaff(t *testing.T) {
	t.Parallel()
	var s staff
	var met sync.WaitGroup
	met.Add(maxIdle + 10)
	for range maxIdle + 10 { // each needs all others
		s.Go(func() { met.Done(); met.Wait() })
	}
	s.all.Wait()
	// Who is done becomes idle after that.
	for n := -1; n < maxIdle; {
		s.mu.Lock()
		n = len(s.idle)
		s.mu.Unlock()
	}
	ran := make(chan struct{})
	for range 3 * maxIdle { // more than may wait
		s.Go(func() { ran <- struct{}{} })
	}
	for range 3 * maxIdle {
		<-ran
	}
	s.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.idle) != 0 {
		t.Errorf("%d are idle after the end", len(s.idle))
	}
}
