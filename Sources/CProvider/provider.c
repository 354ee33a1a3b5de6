#include "sanswitch/provider.h"
