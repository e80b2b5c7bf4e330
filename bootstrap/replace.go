package bootstrap

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// ReplaceFile makes data the content of the file at path, in a directory that is there:
// whoever reads meanwhile sees what was there before or all of data, and where it fails
// what was there stays. The file's name is the last thing to appear. Who owned what was
// there owns what is there then.
func ReplaceFile(path string, data []byte, mode fs.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	keepOwner(tmp, path)
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Chmod(mode)
	}
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(tmp.Name()))
	}
	return err
}
