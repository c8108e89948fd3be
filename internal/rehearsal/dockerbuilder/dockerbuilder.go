// Package dockerbuilder stands in for gcr.io/cloud-builders/docker where builds are rehearsed as processes, on machines without a Docker
// engine: `build` makes an image from a Dockerfile that begins FROM scratch, `save` writes it as `docker save` does. Used by the rehearsal.
//
// It is a stand-in and not an engine: nothing runs, so RUN is refused, as is every base but scratch. The same input gives the same digest.
package dockerbuilder

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Run does what the docker command line in args asks for. Images are kept below store, which all steps of one build share.
func Run(store string, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("want build or save")
	}
	fl := flag.NewFlagSet(args[0], flag.ContinueOnError)
	fl.SetOutput(io.Discard)
	switch args[0] {
	case "build":
		var tag, file string
		fl.StringVar(&tag, "tag", "", "")
		fl.StringVar(&tag, "t", "", "")
		fl.StringVar(&file, "file", "Dockerfile", "")
		fl.StringVar(&file, "f", "Dockerfile", "")
		if err := fl.Parse(args[1:]); err != nil || tag == "" || fl.NArg() != 1 {
			return fmt.Errorf("this stand-in knows: build --tag NAME [--file FILE] FOLDER, not %q", args)
		}
		return build(store, tag, file, fl.Arg(0), out)
	case "save":
		var output string
		fl.StringVar(&output, "output", "", "")
		fl.StringVar(&output, "o", "", "")
		if err := fl.Parse(args[1:]); err != nil || output == "" || fl.NArg() != 1 {
			return fmt.Errorf("this stand-in knows: save --output FILE NAME, not %q", args)
		}
		return save(store, fl.Arg(0), output)
	}
	return fmt.Errorf("this stand-in knows build and save, not %q", args[0])
}

func imageFile(store, image string) (string, name.Tag, error) {
	tag, err := name.NewTag(image)
	if err != nil {
		return "", tag, err
	}
	return filepath.Join(store, strings.NewReplacer("/", "_", ":", "_").Replace(tag.Name())+".tar"), tag, nil
}

func build(store, image, file, dir string, out io.Writer) error {
	path, tag, err := imageFile(store, image)
	if err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return err
	}
	img, err := assemble(string(text), os.DirFS(dir))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	digest, err := img.ConfigName()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(store, 0o755); err != nil {
		return err
	}
	if err := tarball.WriteToFile(path, tag, img); err != nil {
		return err
	}
	fmt.Fprintf(out, "built %s, image id %s\n", tag.Name(), digest)
	return nil
}

func save(store, image, output string) error {
	path, _, err := imageFile(store, image)
	if err != nil {
		return err
	}
	in, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("no image %s was built in this build", image)
	}
	defer func() { _ = in.Close() }()
	to, err := os.Create(output)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, in)
	return errors.Join(err, to.Close())
}

// assemble follows the instructions of a Dockerfile over the build context.
func assemble(dockerfile string, context fs.FS) (v1.Image, error) {
	img := empty.Image
	config := v1.Config{}
	started := false
	for number, line := range strings.Split(dockerfile, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		rest = strings.TrimSpace(rest)
		var err error
		switch word = strings.ToUpper(word); {
		case !started && word != "FROM":
			err = errors.New("want FROM first")
		case word == "FROM" && rest == "scratch" && !started:
			started = true
		case word == "FROM":
			err = fmt.Errorf("this stand-in has one base, scratch, and cannot pull %s", rest)
		case word == "COPY":
			img, err = copyFiles(img, context, strings.Fields(rest))
		case word == "ENTRYPOINT":
			err = json.Unmarshal([]byte(rest), &config.Entrypoint)
		case word == "CMD":
			err = json.Unmarshal([]byte(rest), &config.Cmd)
		case word == "ENV":
			config.Env = append(config.Env, rest)
		case word == "USER":
			config.User = rest
		case word == "WORKDIR":
			config.WorkingDir = rest
		case word == "EXPOSE":
			if config.ExposedPorts == nil {
				config.ExposedPorts = map[string]struct{}{}
			}
			config.ExposedPorts[rest+"/tcp"] = struct{}{}
		default:
			err = fmt.Errorf("this stand-in does not know %s", word)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number+1, err)
		}
	}
	if !started {
		return nil, errors.New("no FROM")
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", "amd64", config
	return mutate.ConfigFile(img, file)
}

// copyFiles adds one layer: COPY source... target, without options. Times and owners are fixed, so that the digest depends on content.
func copyFiles(img v1.Image, context fs.FS, args []string) (v1.Image, error) {
	if len(args) < 2 || strings.HasPrefix(args[0], "--") {
		return nil, errors.New("want COPY source... target, without options")
	}
	target := args[len(args)-1]
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, source := range args[:len(args)-1] {
		source = path.Clean(source)
		err := fs.WalkDir(context, source, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if !info.Mode().IsRegular() {
				return fmt.Errorf("%s is not a regular file", name)
			}
			content, err := fs.ReadFile(context, name)
			if err != nil {
				return err
			}
			to := target
			if rel := strings.TrimPrefix(strings.TrimPrefix(name, source), "/"); rel != "" {
				to = path.Join(target, rel)
			} else if strings.HasSuffix(target, "/") || len(args) > 2 {
				to = path.Join(target, path.Base(name))
			}
			header := tar.Header{Name: strings.TrimPrefix(to, "/"), Mode: int64(info.Mode().Perm()), Size: int64(len(content)), Typeflag: tar.TypeReg}
			if err := w.WriteHeader(&header); err != nil {
				return err
			}
			_, err = w.Write(content)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(img, layer)
}
