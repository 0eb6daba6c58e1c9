package main

import "sync"

// maxIdle is how many goroutines wait for another connection: as many as come in the
// moment in which as many leave.
const maxIdle = 8

// A staff runs functions in goroutines that are used again, for a handshake needs a
// stack of 32 KiB: a goroutine of its own would grow to that from 4, copying all at each
// step. The zero value is ready; its methods may be called by several goroutines.
type staff struct {
	all  sync.WaitGroup
	mu   sync.Mutex
	idle []chan func() // the last to become idle goes first; guarded by mu
}

// Go runs f in a goroutine.
func (s *staff) Go(f func()) {
	s.all.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.idle); n > 0 {
		s.idle[n-1] <- f
		s.idle = s.idle[:n-1]
		return
	}
	go s.work(f)
}

func (s *staff) work(f func()) {
	next := make(chan func(), 1)
	for ; f != nil; f = <-next {
		s.do(f)
		s.mu.Lock()
		if len(s.idle) >= maxIdle {
			s.mu.Unlock()
			return
		}
		s.idle = append(s.idle, next)
		s.mu.Unlock()
	}
}

func (s *staff) do(f func()) {
	defer s.all.Done()
	f()
}

// Wait returns when all that runs has ended, and lets those go that are idle.
func (s *staff) Wait() {
	s.all.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, next := range s.idle {
		close(next)
	}
	s.idle = nil
}
