package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"muster/enrolee"
	"muster/tef"
)

// A commandsConfig is who performs the commands of the MEF.
type commandsConfig struct {
	// Program is run for each command: with the class as its argument, certificate, device or node, and the arguments as a JSON object on its standard input. It ends with 0 when the command was performed; else it may print the status code of TS-0003 12.3.2.4 that fits.
	Program string `yaml:"program"`
	// Timeout is the time that the program has for one command; 1m by default.
	Timeout time.Duration `yaml:"timeout"`
}

func (c *commandsConfig) setDefaults(path string) error {
	if c.Program == "" {
		if c.Timeout != 0 {
			return configErrorf("%s: commands has a timeout and no program", path)
		}
		return nil
	}
	resolve(path, &c.Program)
	var err error
	if c.Program, err = filepath.Abs(c.Program); err != nil { // a bare name would be looked for in PATH
		return configErrorf("commands.program: %v", err)
	}
	orDefault(&c.Timeout, time.Minute)
	if info, err := os.Stat(c.Program); err != nil {
		return configErrorf("commands.program: %v", err)
	} else if info.IsDir() || info.Mode()&0o111 == 0 {
		return configErrorf("commands.program: %s cannot be executed", c.Program)
	}
	return nil
}

// executor returns who performs commands, or nil if nobody does. What fails is told in notes.
func (c *commandsConfig) executor(notes io.Writer) enrolee.Executor {
	if c.Program == "" {
		return nil
	}
	return commandProgram{*c, notes}
}

// A commandProgram performs commands by running a program.
type commandProgram struct {
	commandsConfig
	notes io.Writer
}

// maxProgramOutput bounds what is kept of a program's output, in octets each for
// standard output and error.
const maxProgramOutput = 4096

// programGrace is how long a program may hold its output open after its time.
const programGrace = time.Second

// ProvisionCertificate implements enrolee.Executor.
func (p commandProgram) ProvisionCertificate(ctx context.Context, c tef.CertificateProvisioning) error {
	return p.run(ctx, "certificate", tef.CommandDescription{Class: tef.ClassCertificate, Certificate: &c})
}

// ConfigureDevice implements enrolee.Executor.
func (p commandProgram) ConfigureDevice(ctx context.Context, c tef.DeviceConfiguration) error {
	return p.run(ctx, "device", tef.CommandDescription{Class: tef.ClassDevice, Device: &c})
}

// ProcessNode implements enrolee.Executor.
func (p commandProgram) ProcessNode(ctx context.Context, c tef.NodeProcessing) error {
	return p.run(ctx, "node", tef.CommandDescription{Class: tef.ClassNode, Node: &c})
}

// run gives the program the description as the MEF has sent it. The program gets
// no environment of ours but PATH.
func (p commandProgram) run(ctx context.Context, class string, d tef.CommandDescription) error {
	description, err := d.Object()
	if err != nil {
		return err
	}
	input, err := json.Marshal(description)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	var stdout, stderr limitedBuffer
	program := exec.CommandContext(ctx, p.Program, class)
	program.Env = []string{"PATH=" + os.Getenv("PATH")}
	program.Stdin, program.Stdout, program.Stderr = bytes.NewReader(input), &stdout, &stderr
	program.WaitDelay = programGrace
	if err := program.Run(); err != nil {
		err = fmt.Errorf("%s %s: %w: %.200q", p.Program, class, errors.Join(err, ctx.Err()), strings.TrimSpace(stderr.String()))
		fmt.Fprintf(p.notes, "muster: a command of the MEF was not performed: %v\n", err)
		if status, ok := failedStatus(stdout.String()); ok {
			return &enrolee.CommandError{Status: status, Err: err}
		}
		return err
	}
	return nil
}

// failedStatus is the status of a failure that a program printed, alone.
func failedStatus(printed string) (tef.CommandStatus, bool) {
	code, err := strconv.Atoi(strings.TrimSpace(printed))
	status := tef.CommandStatus(code)
	return status, err == nil && status.Failed()
}

// A limitedBuffer keeps the first octets that are written to it.
type limitedBuffer struct{ kept bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	b.kept.Write(p[:min(len(p), maxProgramOutput-b.kept.Len())])
	return len(p), nil
}

func (b *limitedBuffer) String() string { return b.kept.String() }

// tellExchange prints what an Enrolment Exchange has brought, besides the credential.
func tellExchange(out io.Writer) func(enrolee.Exchange, error) {
	return func(done enrolee.Exchange, err error) {
		switch {
		case err != nil && !done.Credential.KeID.IsZero():
			fmt.Fprintf(out, "muster: enrolled, but the MEF's commands were not all performed: %v\n", err)
		case err == nil:
			fmt.Fprintf(out, "muster: the MEF has no more commands, and wants to be asked again in %s\n", done.RetryAfter)
		}
	}
}
