package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"

	"golang.org/x/sync/errgroup"

	"muster"
	"muster/enrolee"
	"muster/tef"
)

// What can be measured.
const (
	opEnrolment    = "enrolment"
	opAttachment   = "attachment"
	opReattachment = "re-attachment"
	opRetrieval    = "retrieval"
)

var benchOperations = []string{opEnrolment, opAttachment, opReattachment, opRetrieval}

// A workload is what devices do while they are measured.
type workload struct {
	operations []operation
	// stock makes ready what so many operations use up; nil where they use up nothing.
	stock func(ctx context.Context, operations int) error
	close func()
}

// newWorkload makes the devices of a workload ready. A source gives the n-th device,
// in each call another one if they are made anew.
func newWorkload(ctx context.Context, kind string, concurrency int, anew bool, source func(n int) (benchDevice, error)) (*workload, error) {
	switch kind {
	case opEnrolment:
		return enrolments(concurrency, source), nil
	case opAttachment:
		if !anew {
			return enrolledAttachments(ctx, concurrency, source), nil
		}
		return attachments(concurrency, source), nil
	case opReattachment:
		return reattachments(ctx, concurrency, source)
	default:
		return retrievals(ctx, concurrency, source)
	}
}

func enrolments(concurrency int, source func(n int) (benchDevice, error)) *workload {
	w := &workload{close: func() {}}
	for n := range concurrency {
		w.operations = append(w.operations, func() (action, error) {
			device, err := source(n)
			return func(ctx context.Context) error {
				_, err := device.Enrol(ctx)
				return err
			}, err
		})
	}
	return w
}

// attachments are the first of new credentials: a handshake under the KeID, for
// which the MAF fetches the key, a registration, and a handshake under the KmID.
func attachments(concurrency int, source func(n int) (benchDevice, error)) *workload {
	ready := make([][]benchDevice, concurrency)
	w := &workload{close: func() {}}
	w.stock = func(ctx context.Context, operations int) error {
		group, ctx := errgroup.WithContext(ctx)
		for n := range concurrency {
			group.Go(func() error {
				for len(ready[n]) < operations/concurrency+1 {
					device, err := source(n)
					if err != nil {
						return err
					}
					if _, err := device.Enrol(ctx); err != nil {
						return err
					}
					ready[n] = append(ready[n], device)
				}
				return nil
			})
		}
		return group.Wait()
	}
	for n := range concurrency {
		w.operations = append(w.operations, func() (action, error) {
			if len(ready[n]) == 0 {
				return nil, errUsedUp
			}
			device := ready[n][0]
			ready[n] = ready[n][1:]
			return attaching(device), nil
		})
	}
	return w
}

// enrolledAttachments are attachments of devices each of which enrols shortly before:
// an enrolment takes the place of the device's last one, so that none can be made
// ahead of a run.
func enrolledAttachments(ctx context.Context, concurrency int, source func(n int) (benchDevice, error)) *workload {
	w := &workload{close: func() {}}
	for n := range concurrency {
		w.operations = append(w.operations, func() (action, error) {
			device, err := source(n)
			if err != nil {
				return nil, err
			}
			device.keys.kept = enrolee.Credentials{} // which would serve if the new one did not
			_, err = device.Enrol(ctx)
			return attaching(device), err
		})
	}
	return w
}

func attaching(device benchDevice) action {
	return func(ctx context.Context) error {
		attachment, err := device.Ensure(ctx)
		if err != nil {
			return err
		}
		return attachment.Close()
	}
}

func reattachments(ctx context.Context, concurrency int, source func(n int) (benchDevice, error)) (*workload, error) {
	w := &workload{close: func() {}}
	for n := range concurrency {
		device, err := source(n)
		if err != nil {
			return nil, err
		}
		attach := attaching(device)
		if err := attach(ctx); err != nil {
			return nil, fmt.Errorf("the first attachment of device %d: %w", n+1, err)
		}
		w.operations = append(w.operations, again(attach))
	}
	return w, nil
}

// retrievals are those of one key, by all of its targets, each over a session with
// the MAF that stays open.
func retrievals(ctx context.Context, concurrency int, source func(n int) (benchDevice, error)) (w *workload, err error) {
	var open []io.Closer
	w = &workload{close: func() {
		for _, session := range slices.Backward(open) {
			_ = session.Close()
		}
	}}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	owner, err := source(concurrency)
	if err != nil {
		return nil, err
	}
	registration := tef.KeyRegistration{Usage: tef.SUIDMAFForESDataEncryption}
	targets := make([]*enrolee.Attachment, concurrency)
	for n := range concurrency {
		device, err := source(n)
		if err != nil {
			return nil, err
		}
		if targets[n], err = device.Ensure(ctx); err != nil {
			return nil, fmt.Errorf("the attachment of device %d: %w", n+1, err)
		}
		open = append(open, targets[n])
		registration.Targets = append(registration.Targets, device.id.String())
	}
	attachment, err := owner.Ensure(ctx)
	if err != nil {
		return nil, err
	}
	open = append(open, attachment)
	octets := make([]byte, muster.KeySize)
	_, _ = rand.Read(octets) // it ends the program rather than fail
	if registration.Key, err = muster.NewKc(octets); err != nil {
		return nil, err
	}
	key, err := attachment.RegisterKey(ctx, registration)
	if err != nil {
		return nil, err
	}
	for _, target := range targets {
		w.operations = append(w.operations, again(func(ctx context.Context) error {
			got, err := target.Mmaf().RetrieveKey(ctx, key.ID)
			if err == nil && got.Key.IsZero() {
				err = errors.New("the MAF has answered without the key")
			}
			return err
		}))
	}
	return w, nil
}
