package archive

import (
	"errors"
	"os"
	"path/filepath"
)

// Place lets write fill an empty file of mode 0600 beside path, makes it durable
// and gives it its name, which must be free: the error wraps fs.ErrExist if it is not.
func Place(path string, write func(draft string) error) (err error) {
	if _, err := os.Lstat(path); err == nil {
		return &os.PathError{Op: "create", Path: path, Err: os.ErrExist}
	}
	if path, err = filepath.Abs(path); err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // of mode 0600
	if err != nil {
		return err
	}
	draft := file.Name()
	defer func() { err = errors.Join(err, os.Remove(draft)) }()
	if err := file.Close(); err != nil {
		return err
	}
	if err := write(draft); err != nil {
		return err
	}
	if err := sync(draft); err != nil {
		return err
	}
	if err := os.Link(draft, path); err != nil { // fails if the name was taken meanwhile
		return err
	}
	return sync(filepath.Dir(path))
}

// sync makes a file, or the names in a folder, durable.
func sync(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}
