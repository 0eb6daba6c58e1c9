package main

import (
	"context"
	"os"
	"os/signal"
	"reflect"
	"syscall"
)

// awaitEnd returns when ctx ends. Until then, each SIGHUP gives a MEF the rules
// in its configuration anew.
func (s *service) awaitEnd(ctx context.Context, running *mefConfig) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			s.reload(running)
		}
	}
}

// reload reads the configuration again. What is wrong changes nothing.
func (s *service) reload(running *mefConfig) {
	config, err := readMEFConfig(running.file)
	if err == nil {
		rules, wrong := mefRules(config, s.status)
		if err = wrong; err == nil {
			if contradiction := s.replace(rules); contradiction != nil {
				err = configErrorf("%s: %v", running.file, contradiction)
			}
		}
	}
	if err != nil {
		logRefusal(s.log, "configuration refused, the old one stays", err)
		return
	}
	s.log.Info("configuration replaced", "instructions", len(config.Instructions), "mafs", len(config.MAFs), "verdicts", len(config.Verdicts))
	if !reflect.DeepEqual(withoutRules(*config), withoutRules(*running)) {
		s.log.Warn("some of what has changed needs a restart: all but instructions, mafs, verdicts and intermediates")
	}
}

func withoutRules(c mefConfig) mefConfig {
	c.Instructions, c.MAFs, c.Verdicts, c.Intermediates = nil, nil, nil, nil
	return c
}
