"""The lab itself."""


def test_a_process_may_have_more_pages_than_mappings_by_default(main1):
    """As the API server has after a while: it died of it, or looped for ever."""
    pages = 70_000
    program = f"import mmap; m = mmap.mmap(-1, {pages} * 8192); m[::8192] = bytes([1]) * {pages}; print(sum(m[::8192]))"
    assert main1.check_output(f"timeout 120 python3 -c '{program}'") == str(pages)
