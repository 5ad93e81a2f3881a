package brokertest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/moby/moby/client"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/testcontainers/testcontainers-go"
	tclog "github.com/testcontainers/testcontainers-go/log"

	"github.com/hostup/deploy-worker/internal/proctest"
)

// ErrNoDocker says that no Docker engine answered.
var ErrNoDocker = errors.New("no Docker engine answers")

// Labels of everything that tests make in Docker, by which a later run finds
// what a killed one left.
const (
	labelTestcontainers = "org.testcontainers"
	labelOwn            = "se.hostup.deploy-worker.brokertest"
	labelHost           = labelOwn + ".host"
	labelPID            = labelOwn + ".pid"
)

// orphanAge is the age after which a container is left over whoever started it;
// no test binary runs that long.
const orphanAge = 3 * time.Hour

// Engine returns a client for a Docker engine that answers, or an error that is
// [ErrNoDocker]. Nothing else may use testcontainers before.
func Engine(ctx context.Context) (*testcontainers.DockerProvider, error) {
	setDefault("TESTCONTAINERS_HOST_OVERRIDE", "127.0.0.1")
	setDefault("TESTCONTAINERS_RYUK_DISABLED", "true")

	// Nine lines about every container hide the one that matters.
	tclog.SetDefault(tclog.NewNoopLogger())

	docker, err := dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoDocker, err)
	}

	return docker, nil
}

// setDefault leaves alone what the caller has set. Without these two values
// testcontainers dials the default gateway when it runs in a container itself,
// and wants an image that is only to be had from a registry.
func setDefault(name, value string) {
	if _, ok := os.LookupEnv(name); !ok {
		if err := os.Setenv(name, value); err != nil {
			panic("brokertest: " + err.Error())
		}
	}
}

// dial turns the panic into an error with which the library says that it finds
// no engine to talk to.
func dial(ctx context.Context) (docker *testcontainers.DockerProvider, err error) {
	defer func() {
		if r := recover(); r != nil {
			docker, err = nil, fmt.Errorf("%v", r)
		}
	}()

	docker, err = testcontainers.NewDockerProvider()
	if err != nil {
		return nil, err
	}

	if err := docker.Health(ctx); err != nil {
		return nil, errors.Join(err, docker.Close())
	}

	return docker, nil
}

// Labels are for every container, network and image that a test binary makes
// and removes again, so that [Sweep] finds them if it could not.
func Labels() (map[string]string, error) {
	host, err := os.Hostname()
	if err != nil {
		return nil, err
	}

	return map[string]string{
		labelTestcontainers: "true",
		labelOwn:            "true",
		labelHost:           host,
		labelPID:            strconv.Itoa(os.Getpid()),
	}, nil
}

// Sweep removes the containers, networks and images that carry [Labels] and
// whose test binary is gone: nothing else does so when a run was killed.
func Sweep(ctx context.Context, docker client.APIClient) error {
	ours := make(client.Filters).Add("label", labelTestcontainers+"=true").Add("label", labelOwn+"=true")

	// In this order, because each is in use by what stands before it. It is no
	// failure if another test binary was faster.
	containers, err := docker.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: ours})
	if err != nil {
		return err
	}

	for _, c := range containers.Items {
		if gone(c.Labels, time.Unix(c.Created, 0)) {
			fmt.Fprintf(os.Stderr, "brokertest: removing container %.12s of a run that is gone\n", c.ID)

			_, _ = docker.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
		}
	}

	networks, err := docker.NetworkList(ctx, client.NetworkListOptions{Filters: ours})
	if err != nil {
		return err
	}

	for _, n := range networks.Items {
		if gone(n.Labels, n.Created) {
			_, _ = docker.NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{})
		}
	}

	images, err := docker.ImageList(ctx, client.ImageListOptions{Filters: ours})
	if err != nil {
		return err
	}

	for _, i := range images.Items {
		if gone(i.Labels, time.Unix(i.Created, 0)) {
			_, _ = docker.ImageRemove(ctx, i.ID, client.ImageRemoveOptions{Force: true, PruneChildren: true})
		}
	}

	return nil
}

// gone tells whether the test binary that made something has ended. Of one on
// another machine only the age can tell.
func gone(labels map[string]string, made time.Time) bool {
	if time.Since(made) >= orphanAge {
		return true
	}

	host, err := os.Hostname()
	pid, noPID := strconv.Atoi(labels[labelPID])

	return noPID != nil || err == nil && labels[labelHost] == host && !alive(pid)
}

// alive tells whether the process is there; not being allowed to signal it means
// that it is.
func alive(pid int) bool {
	return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// NATSImage returns the name of an image of nats-server: the one that
// TEST_NATS_IMAGE names, one kept from an earlier build of the same version, or
// a new build. It is kept afterwards, for the next test binary.
func NATSImage(ctx context.Context, docker *testcontainers.DockerProvider) (string, error) {
	if name := os.Getenv("TEST_NATS_IMAGE"); name != "" {
		return name, nil
	}

	const name = "deploy-worker-test-nats:" + server.VERSION
	if _, err := docker.Client().ImageInspect(ctx, name); err == nil {
		return name, nil
	}

	dir, err := os.MkdirTemp("", "brokertest-*")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }()

	err = Compile(ctx, filepath.Join(dir, "nats-server"), "github.com/nats-io/nats-server/v2")
	if err != nil {
		return "", err
	}

	return name, Image(ctx, docker, name, dir, nil, "nats-server")
}

// Compile builds the program of a package for a container without anything else
// in it.
func Compile(ctx context.Context, program, pkg string, flags ...string) error {
	return proctest.Compile(ctx, []string{"GOOS=linux"}, program, pkg, flags...)
}

// Image builds an image from nothing but programs in a directory; the first of
// them is what it runs. A label keeps nothing, [Sweep] may remove what has those
// of [Labels].
func Image(ctx context.Context, docker *testcontainers.DockerProvider, name, dir string, labels map[string]string, programs ...string) error {
	text := fmt.Sprintf("FROM scratch\nCOPY %s /\nENTRYPOINT [\"/%s\"]\n", strings.Join(programs, " "), programs[0])
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o600); err != nil {
		return err
	}

	repository, tag, _ := strings.Cut(name, ":")
	_, err := docker.BuildImage(ctx, &testcontainers.ContainerRequest{FromDockerfile: testcontainers.FromDockerfile{
		Context: dir, Repo: repository, Tag: tag, KeepImage: true,
		BuildOptionsModifier: func(o *client.ImageBuildOptions) { o.Labels = labels },
	}})

	return err
}
