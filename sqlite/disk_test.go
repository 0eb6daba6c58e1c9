package sqlite_test

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"modernc.org/libc"
	lib "modernc.org/sqlite/lib"
)

// A disk is what SQLite takes for the disk under one folder. It passes what is
// written to the real files, fails where it is told to, and remembers what was
// written and synced, in order.
type disk struct {
	record bool

	mu      sync.Mutex         // one operation at a time
	fault   func(diskOp) int32 // returns a result code of SQLite; guarded by mu
	history []diskOp           // guarded by mu
}

// A diskOp is one change of a file.
type diskOp struct {
	kind   opKind
	file   string // its name in the folder
	offset int64
	octets []byte // of a write
	failed bool
}

type opKind int

const (
	opWrite opKind = iota
	opTruncate
	opSync
)

// disks finds the disk of a folder, diskFiles the file that SQLite names by an
// address, diskMethods the methods that stand in for SQLite's own.
var disks, diskFiles, diskMethods sync.Map

type diskFile struct {
	*disk
	name string
	real uintptr // SQLite's own methods
}

// newDisk puts a disk under a folder until the test ends.
func newDisk(t testing.TB, folder string) *disk {
	t.Helper()
	folder, err := filepath.EvalSymlinks(folder)
	if err != nil {
		t.Fatal(err)
	}
	d := &disk{}
	disks.Store(folder, d)
	t.Cleanup(func() { disks.Delete(folder) })
	return d
}

// fail makes operations end with the code that fault returns, if it is not
// SQLITE_OK. nil heals the disk.
func (d *disk) fail(fault func(diskOp) int32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = fault
}

// moment returns how many operations there were so far.
func (d *disk) moment() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.history)
}

// do passes an operation on, or fails it: then it has written nothing.
func (d *disk) do(op diskOp, pass func() int32) int32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	result := int32(lib.SQLITE_OK)
	if d.fault != nil {
		result = d.fault(op)
	}
	if result == lib.SQLITE_OK {
		result = pass()
	}
	if op.failed = result != lib.SQLITE_OK; d.record {
		d.history = append(d.history, op)
	}
	return result
}

// SQLite's structures lie outside Go's memory and are reached by address.
func at[T any](address uintptr) *T { return *(**T)(unsafe.Pointer(&address)) }

// function returns the address under which SQLite calls a declared function.
func function[T any](f T) uintptr { return *(*uintptr)(unsafe.Pointer(&struct{ f T }{f})) }

// called makes a function of an address.
func called[T any](address uintptr) T { return *(*T)(unsafe.Pointer(&address)) }

var realVFS *lib.Tsqlite3_vfs

// The disks are the default file system of this test program; a folder without
// a disk goes to SQLite's own.
func init() {
	tls := libc.NewTLS()
	found := lib.Xsqlite3_vfs_find(tls, 0)
	realVFS = at[lib.Tsqlite3_vfs](found)
	address := libc.Xmalloc(tls, libc.Tsize_t(unsafe.Sizeof(*realVFS)))
	name, err := libc.CString("disk")
	if err != nil {
		panic(err)
	}
	vfs := at[lib.Tsqlite3_vfs](address)
	*vfs = *realVFS
	vfs.FpNext, vfs.FzName, vfs.FxOpen = 0, name, function(diskOpen)
	if lib.Xsqlite3_vfs_register(tls, address, 1) != lib.SQLITE_OK {
		panic("the disks are not registered")
	}
}

func diskOpen(tls *libc.TLS, vfs, name, file uintptr, flags int32, out uintptr) int32 {
	open := called[func(*libc.TLS, uintptr, uintptr, uintptr, int32, uintptr) int32](realVFS.FxOpen)
	result := open(tls, vfs, name, file, flags, out)
	handle := at[lib.Tsqlite3_file](file)
	if name == 0 || result != lib.SQLITE_OK || handle.FpMethods == 0 {
		return result
	}
	path := strings.Clone(libc.GoString(name))
	under, found := disks.Load(filepath.Dir(path))
	if !found {
		return result
	}
	diskFiles.Store(file, &diskFile{under.(*disk), filepath.Base(path), handle.FpMethods})
	handle.FpMethods = standIn(tls, handle.FpMethods)
	return result
}

// standIn returns the address of methods that are SQLite's own but for the three
// that change a file.
func standIn(tls *libc.TLS, own uintptr) uintptr {
	if known, ok := diskMethods.Load(own); ok {
		return known.(uintptr)
	}
	methods := *at[lib.Tsqlite3_io_methods](own)
	methods.FxWrite, methods.FxTruncate, methods.FxSync = function(diskWrite), function(diskTruncate), function(diskSync)
	address := libc.Xmalloc(tls, libc.Tsize_t(unsafe.Sizeof(methods)))
	*at[lib.Tsqlite3_io_methods](address) = methods
	known, _ := diskMethods.LoadOrStore(own, address)
	return known.(uintptr)
}

func fileAt(address uintptr) (*diskFile, *lib.Tsqlite3_io_methods) {
	found, _ := diskFiles.Load(address)
	f := found.(*diskFile)
	return f, at[lib.Tsqlite3_io_methods](f.real)
}

func diskWrite(tls *libc.TLS, file, octets uintptr, n int32, offset lib.Tsqlite3_int64) int32 {
	f, real := fileAt(file)
	copied := []byte(nil)
	if f.record {
		copied = append(copied, unsafe.Slice(at[byte](octets), n)...)
	}
	return f.do(diskOp{kind: opWrite, file: f.name, offset: offset, octets: copied}, func() int32 {
		return called[func(*libc.TLS, uintptr, uintptr, int32, lib.Tsqlite3_int64) int32](real.FxWrite)(tls, file, octets, n, offset)
	})
}

func diskTruncate(tls *libc.TLS, file uintptr, size lib.Tsqlite3_int64) int32 {
	f, real := fileAt(file)
	return f.do(diskOp{kind: opTruncate, file: f.name, offset: size}, func() int32 {
		return called[func(*libc.TLS, uintptr, lib.Tsqlite3_int64) int32](real.FxTruncate)(tls, file, size)
	})
}

func diskSync(tls *libc.TLS, file uintptr, flags int32) int32 {
	f, real := fileAt(file)
	return f.do(diskOp{kind: opSync, file: f.name}, func() int32 {
		return called[func(*libc.TLS, uintptr, int32) int32](real.FxSync)(tls, file, flags)
	})
}

// An image is the files of a folder.
type image map[string][]byte

// write puts octets at an offset, and zeros into a gap before them.
func (i image) write(op diskOp) {
	end := int(op.offset) + len(op.octets)
	if have := len(i[op.file]); have < end {
		i[op.file] = append(i[op.file], make([]byte, end-have)...)
	}
	copy(i[op.file][op.offset:], op.octets)
}

func (i image) apply(op diskOp) {
	switch op.kind {
	case opWrite:
		i.write(op)
	case opTruncate:
		i[op.file] = i[op.file][:min(int(op.offset), len(i[op.file]))]
	}
}

// sectorSize in octets is what a disk writes whole or not at all.
const sectorSize = 512

// afterPowerCut returns what a disk may hold if power fails after a number of
// operations: all that was synced, and of the rest what chance brought there, in
// any order, sector by sector. chance returns a number below n.
//
// What waits when a sync fails is left to chance then, as on Linux: later syncs
// succeed without it.
func (i image) afterPowerCut(history []diskOp, chance func(n int) int) {
	waiting := map[string][]diskOp{}
	scatter := func(ops []diskOp) {
		for _, op := range ops {
			for _, sector := range sectors(op) {
				if chance(2) == 0 {
					i.apply(sector)
				}
			}
		}
	}
	for _, op := range history {
		switch {
		case op.kind != opSync:
			if !op.failed {
				waiting[op.file] = append(waiting[op.file], op)
			}
			continue
		case op.failed:
			scatter(waiting[op.file])
		default:
			for _, w := range waiting[op.file] {
				i.apply(w)
			}
		}
		waiting[op.file] = nil
	}
	for _, file := range slices.Sorted(maps.Keys(waiting)) {
		scatter(waiting[file])
	}
}

func sectors(op diskOp) (parts []diskOp) {
	if op.kind != opWrite {
		return []diskOp{op}
	}
	for octets := op.octets; len(octets) > 0; {
		part := op
		n := min(sectorSize-int(op.offset%sectorSize), len(octets))
		part.octets, octets = octets[:n], octets[n:]
		op.offset += int64(n)
		parts = append(parts, part)
	}
	return parts
}
