# SPDX-License-Identifier: Apache-2.0
"""What tests of several folders share. Nothing in here is collected, nothing imports a conftest."""
