package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// ErrClosed is returned by a Log that is closed.
var ErrClosed = errors.New("the audit log is closed")

// ErrInUse is wrapped by the error for a file that another Log has open.
var ErrInUse = errors.New("the audit log is in use")

// maxBatch is how many entries share one write and one fsync.
const maxBatch = 256

// A Line is an entry and its line in the file, without its end.
type Line struct {
	Entry
	Text []byte
}

// A Sink takes a copy of the lines of entries that are in the file, in their order.
type Sink interface {
	// Write is called by one goroutine, with the lines that have become durable
	// together. An error is for all of them.
	Write(lines []Line) error
	Close() error
}

// A Follower is a Sink that says after which entry it goes on. Open gives it what
// it lacks of the newest two files.
type Follower interface {
	Sink
	Last() (seq uint64, err error)
}

// A Config describes a Log.
type Config struct {
	// Path is the file, made with mode 0600 if it does not exist.
	Path string
	// Writer is who writes, as the FQDN of a function.
	Writer string
	// MaxSize is the size in octets from which the file is closed under the name
	// path.N, N the number of its last entry, and another begun; 64 MiB by default.
	MaxSize int64
	// Sinks get each entry after the file.
	Sinks []Sink
}

// A Log is an open audit log, which it has to itself. Its methods may be
// called by many goroutines at once.
type Log struct {
	config  Config
	waiting chan waiting
	ended   chan struct{}

	closing sync.RWMutex // held for reading while an entry is handed over
	closed  bool

	// What follows is the writer goroutine's.
	file   *os.File
	size   int64
	head   Head
	broken error
}

type waiting struct {
	entry Entry
	done  chan error
}

// Open opens or makes a log. It follows the chain of the newest two files to its end; a
// last line that a crash cut short was never acknowledged and is removed. An error
// that wraps ErrBroken tells of a file that was changed.
func Open(config Config) (*Log, error) {
	if config.MaxSize == 0 {
		config.MaxSize = 64 << 20
	}
	l := &Log{config: config, waiting: make(chan waiting, maxBatch), ended: make(chan struct{})}
	if err := l.resume(); err != nil {
		return nil, errors.Join(err, l.closeFile())
	}
	go l.run()
	return l, nil
}

// resume opens the file at the end of the chain.
func (l *Log) resume() (err error) {
	if err := l.openFile(); err != nil {
		return err
	}
	if err := cutTornLine(l.config.Path); err != nil {
		return err
	}
	files, err := segments(l.config.Path)
	if err != nil {
		return err
	}
	behind, err := l.behind()
	if err != nil {
		return err
	}
	// After a rotation, the newest file may be empty. Older ones may have been
	// archived, and are Verify's.
	for _, file := range files[max(0, len(files)-2):] {
		if l.head, err = beginning(file, l.head); err != nil {
			return err
		}
		if l.head, err = verifyFile(file, l.head, behind.take); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(file), err)
		}
	}
	if err := behind.catchUp(); err != nil {
		return err
	}
	l.size, err = l.file.Seek(0, io.SeekEnd)
	return err
}

// openFile opens the file or makes it, and locks it: two that write would each
// break the chain of the other.
func (l *Log) openFile() (err error) {
	if l.file, err = os.OpenFile(l.config.Path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600); err != nil {
		return err
	}
	if err := syscall.Flock(int(l.file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrInUse, l.config.Path, err)
	}
	if l.size, err = l.file.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	return syncDirectory(filepath.Dir(l.config.Path))
}

func (l *Log) closeFile() error {
	if l.file == nil {
		return nil
	}
	return l.file.Close()
}

func syncDirectory(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// cutTornLine removes what follows the last end of a line.
func cutTornLine(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	tail := make([]byte, min(size, MaxLine))
	if _, err := file.ReadAt(tail, size-int64(len(tail))); err != nil {
		return err
	}
	torn := len(tail) - 1 - bytes.LastIndexByte(tail, '\n')
	if torn == 0 {
		return nil
	}
	return errors.Join(file.Truncate(size-int64(torn)), file.Sync())
}

// Record appends an entry and returns when it is durable. Entries that wait
// together share one fsync. A context that ends stops the waiting, not the entry.
func (l *Log) Record(ctx context.Context, e Entry) error {
	e.Writer = l.config.Writer
	w := waiting{entry: e, done: make(chan error, 1)}
	if err := l.enqueue(ctx, w); err != nil {
		return err
	}
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *Log) enqueue(ctx context.Context, w waiting) error {
	l.closing.RLock()
	defer l.closing.RUnlock()
	if l.closed {
		return ErrClosed
	}
	select {
	case l.waiting <- w:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close writes what waits and closes the file and the sinks.
func (l *Log) Close() error {
	l.closing.Lock()
	if l.closed {
		l.closing.Unlock()
		return nil
	}
	l.closed = true
	close(l.waiting)
	l.closing.Unlock()
	<-l.ended
	errs := []error{l.closeFile()}
	for _, s := range l.config.Sinks {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}

func (l *Log) run() {
	defer close(l.ended)
	for first := range l.waiting {
		batch := []waiting{first}
	gather:
		for len(batch) < maxBatch {
			select {
			case w, ok := <-l.waiting:
				if !ok {
					break gather
				}
				batch = append(batch, w)
			default:
				break gather
			}
		}
		l.write(batch)
	}
}

// write appends a batch and answers those who wait for it.
func (l *Log) write(batch []waiting) {
	lines, err := l.append(batch)
	if err == nil {
		for _, s := range l.config.Sinks {
			err = errors.Join(err, s.Write(lines))
		}
	}
	for _, w := range batch {
		w.done <- err
	}
}

func (l *Log) append(batch []waiting) ([]Line, error) {
	if l.broken != nil {
		return nil, l.broken
	}
	if l.size >= l.config.MaxSize {
		if err := l.rotate(); err != nil {
			return nil, err
		}
	}
	lines := make([]Line, len(batch))
	var text bytes.Buffer
	head, now := l.head, time.Now()
	for i, w := range batch {
		w.entry.Time = now
		line, next, err := head.chain(w.entry)
		if err != nil {
			return nil, err
		}
		head = next
		text.Write(line)
		lines[i] = Line{w.entry, line[:len(line)-1]}
		lines[i].Seq = head.Seq
	}
	if _, err := l.file.Write(text.Bytes()); err != nil {
		// As with a full disk: what was written of it goes, and the next may succeed.
		if cut := l.file.Truncate(l.size); cut != nil {
			l.broken = fmt.Errorf("%w, and what was written of it stays: %w", err, cut)
		}
		return nil, err
	}
	if err := l.file.Sync(); err != nil {
		// What a disk holds after a failed fsync, nobody can say.
		l.broken = err
		return nil, err
	}
	l.head, l.size = head, l.size+int64(text.Len())
	return lines, nil
}

// rotate closes the file under its number and begins another. The chain goes on.
func (l *Log) rotate() error {
	if err := os.Rename(l.config.Path, fmt.Sprintf(segmentName, l.config.Path, l.head.Seq)); err != nil {
		return err
	}
	old := l.file
	if err := l.openFile(); err != nil {
		l.broken = err
		return errors.Join(err, old.Close())
	}
	return old.Close()
}
